"""A small model on this machine: fetched and verified, served by an embedded llama.cpp on loopback."""
