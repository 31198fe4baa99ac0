"""How an example becomes a prompt, which labels it can take, and which relations its inputs give."""
