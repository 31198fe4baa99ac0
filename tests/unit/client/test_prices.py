import subprocess
import sys
from datetime import UTC, date, datetime, time
from decimal import Decimal
from typing import Any

import pytest
from genai_prices.data_snapshot import DataSnapshot, set_custom_snapshot
from genai_prices.types import (
    ClauseEquals,
    ConditionalPrice,
    ModelInfo,
    ModelPrice,
    PriceVariant,
    Provider,
    StartDateConstraint,
    Tier,
    TieredPrices,
    TimeOfDateConstraint,
)
from hypothesis import given
from hypothesis import strategies as st

from icm_api.client.prices import Price, find_price, parse_price, plain_usd
from icm_api.errors import ConfigError
from icm_api.types import Usage

OPENAI = "https://api.openai.com/v1"
TOGETHER = "https://api.together.xyz/v1"
FREE = Price(Decimal(0), Decimal(0), Decimal(0), "a server of your own")
MORNING = datetime(2026, 11, 21, 9, 30, tzinfo=UTC)


def rates(price: Price | None) -> tuple[str, str, str] | None:
    if price is None:
        return None
    return str(price.input_usd_per_mtok), str(price.cached_usd_per_mtok), str(price.output_usd_per_mtok)


def flat(**usd: str) -> ModelPrice:
    return ModelPrice(**{name: Decimal(text) for name, text in usd.items()})


def tiered(base: str, *tiers: tuple[int, str]) -> TieredPrices:
    return TieredPrices(Decimal(base), [Tier(start, Decimal(price)) for start, price in tiers])


@pytest.fixture
def listed():
    """Makes the price list hold one model, `m` at api.example.com, and nothing else."""

    def install(prices: ModelPrice | list[ConditionalPrice], **more: Any) -> None:
        model = ModelInfo("m", ClauseEquals("m"), prices=prices, **more)
        provider = Provider("example", "Example", r"https://api\.example\.com", models=[model])
        set_custom_snapshot(DataSnapshot([provider], from_auto_update=False))

    yield install
    set_custom_snapshot(None)


def example_price(**options) -> Price | None:
    return find_price("openai-compatible", "m", "https://api.example.com/v1", **options)


# --- service tiers ------------------------------------------------------------------------------------------------


def test_a_service_tier_has_its_own_price_where_the_list_knows_it():
    standard = find_price("openai", "gpt-5.1")
    flex, priority = (find_price("openai", "gpt-5.1", service_tier=tier) for tier in ("flex", "priority"))
    assert standard is not None
    assert flex is not None
    assert priority is not None
    assert flex.input_usd_per_mtok < standard.input_usd_per_mtok < priority.input_usd_per_mtok
    assert "service tier flex" in flex.source
    usage = Usage(prompt_tokens=1_000_000, output_tokens=0)
    assert flex.request_usd(usage, MORNING) == flex.input_usd_per_mtok


@pytest.mark.parametrize("tier", ["auto", "default"])
def test_the_usual_tier_costs_the_list_price(tier):
    assert find_price("openai", "gpt-5.1", service_tier=tier) == find_price("openai", "gpt-5.1")


def test_a_tier_that_the_list_does_not_know_has_no_price():
    assert find_price("openai", "gpt-5.1", service_tier="scale") is None
    assert find_price("groq", "llama-3.3-70b-versatile", service_tier="flex") is None
    assert find_price("openai-compatible", "m", "http://127.0.0.1:8000/v1", service_tier="flex") == FREE


def test_a_tier_whose_price_begins_later_has_none_before(listed):
    begins = StartDateConstraint(date(2027, 1, 1))
    later = PriceVariant({"service_tier": "flex"}, flat(input_mtok="1", output_mtok="1"), begins)
    listed(flat(input_mtok="2", output_mtok="2"), price_variants=[later])
    assert example_price(service_tier="flex", now=MORNING) is None
    assert rates(example_price(service_tier="flex", now=datetime(2027, 1, 2, tzinfo=UTC))) == ("1", "1", "1")


# --- what tokens cost ---------------------------------------------------------------------------------------------


def test_a_cost_counts_cached_tokens_once_and_at_their_own_price():
    price = Price(Decimal("3"), Decimal("0.3"), Decimal("15"), "here")
    cost = price.cost_usd(prompt_tokens=1_000_000, cached_tokens=400_000, output_tokens=100_000)
    assert cost == Decimal("1.8") + Decimal("0.12") + Decimal("1.5")


def test_a_single_token_costs_its_exact_price():
    price = Price(Decimal("0.1"), Decimal("0.1"), Decimal("0.2"), "here")
    assert price.cost_usd(prompt_tokens=1, cached_tokens=0, output_tokens=1) == Decimal("0.0000003")


@given(st.lists(st.tuples(st.integers(0, 10**9), st.integers(0, 10**9), st.integers(0, 10**9)), max_size=20))
def test_costs_of_parts_add_up_exactly_to_the_cost_of_the_whole(parts):
    price = parse_price("0.123456789/0.012345678/999999.999999999")
    counts = [(uncached + cached, cached, output) for uncached, cached, output in parts]

    def cost(prompt: int, cached: int, output: int) -> Decimal:
        return price.cost_usd(prompt_tokens=prompt, cached_tokens=cached, output_tokens=output)

    whole = cost(*(sum(each[i] for each in counts) for i in range(3)))
    assert sum((cost(*each) for each in counts), Decimal(0)) == whole


@pytest.mark.parametrize("counts", [(10, 11, 0), (-1, 0, 0), (10, -1, 0), (10, 0, -1)])
def test_counts_that_contradict_each_other_have_no_cost(counts):
    prompt, cached, output = counts
    with pytest.raises(ValueError, match="no cost of"):
        parse_price("1/1").cost_usd(prompt_tokens=prompt, cached_tokens=cached, output_tokens=output)


# --- servers of one's own -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("provider", "base_url"),
    [
        ("local", None),
        ("synthetic", None),
        ("llama-cpp", None),
        ("llama-cpp", "http://localhost:8081"),
        ("openai-compatible", "http://127.0.0.1:8000/v1"),
        ("openai-compatible", "http://[::1]:8000/v1"),
    ],
)
def test_a_server_on_this_machine_is_free_and_the_price_list_is_not_even_asked(provider, base_url, monkeypatch):
    monkeypatch.setitem(sys.modules, "genai_prices", None)  # an import would fail
    assert find_price(provider, "gpt-4o-mini", base_url) == FREE


def test_a_server_elsewhere_is_not_taken_to_be_free():
    assert find_price("llama-cpp", "gpt-4o-mini", "http://192.168.1.20:8080") is None
    assert find_price("openai-compatible", "gpt-4o-mini", "https://localhost.example.com/v1") is None


def test_importing_the_module_does_not_load_the_price_list():
    code = "import sys, icm_api.client.prices; sys.exit('genai_prices' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# --- hosts of the bundled list ------------------------------------------------------------------------------------


def test_a_provider_without_an_address_is_priced_at_its_default_host():
    price = find_price("openai", "gpt-4o-mini")
    assert price is not None
    assert price == find_price("openai-compatible", "gpt-4o-mini", OPENAI)
    assert price.input_usd_per_mtok > price.cached_usd_per_mtok > 0


def test_the_source_names_the_list_the_host_and_the_model_that_was_matched():
    price = find_price("openai-compatible", "gpt-4o-mini-2024-07-18", OPENAI)
    assert price is not None
    assert price.source.startswith("genai-prices ")
    assert price.source.endswith(": openai gpt-4o-mini")


@pytest.mark.parametrize(
    ("model", "base_url"),
    [
        ("gpt-4o-mini", OPENAI),
        ("meta-llama/Llama-3.3-70B-Instruct-Turbo", TOGETHER),
        ("accounts/fireworks/models/llama-v3p1-8b-instruct", "https://api.fireworks.ai/inference/v1"),
        ("meta-llama/llama-3.1-70b-instruct", "https://openrouter.ai/api/v1"),
        ("deepseek-chat", "https://api.deepseek.com"),
        ("llama-3.1-8b-instant", "https://api.groq.com/openai/v1"),
        ("mistral-small-latest", "https://api.mistral.ai/v1"),
        ("grok-4", "https://api.x.ai/v1"),
        ("claude-3-haiku", "https://api.anthropic.com/v1"),
    ],
)
def test_known_models_have_prices_and_a_cached_token_never_costs_more_than_an_uncached_one(model, base_url):
    price = find_price("openai-compatible", model, base_url)
    assert price is not None
    assert 0 < price.cached_usd_per_mtok <= price.input_usd_per_mtok
    assert price.output_usd_per_mtok > 0


def test_one_host_under_two_names_or_in_other_spelling_has_one_price():
    model = "meta-llama/Llama-3.3-70B-Instruct-Turbo"
    price = find_price("openai-compatible", model, TOGETHER)
    assert price is not None
    assert find_price("openai-compatible", model, "https://api.together.ai/v1") == price
    assert find_price("openai-compatible", model, "https://API.Together.xyz:443/v1/") == price


@pytest.mark.parametrize(
    ("provider", "model", "base_url"),
    [
        ("openai-compatible", "no-such-model", OPENAI),
        ("openai-compatible", "gpt-4o-mini", "https://models.example.com/v1"),
        ("openai-compatible", "gpt-4o-mini", None),
        ("my_module:MyProvider", "gpt-4o-mini", None),
    ],
)
def test_an_unknown_model_host_or_provider_has_no_price(provider, model, base_url):
    assert find_price(provider, model, base_url) is None


def test_an_unusable_address_is_refused():
    with pytest.raises(ConfigError, match="base_url must look like"):
        find_price("openai-compatible", "gpt-4o-mini", "api.openai.com/v1")


# --- how a listed price is read -----------------------------------------------------------------------------------


def test_without_a_listed_discount_a_cached_token_costs_as_much_as_any_other(listed):
    listed(flat(input_mtok="0.88", output_mtok="0.9"))
    assert rates(example_price()) == ("0.88", "0.88", "0.9")


def test_a_listed_cached_price_is_kept_whatever_it_is(listed):
    listed(flat(input_mtok="0.225", cache_read_mtok="0.23", output_mtok="1"))
    assert rates(example_price()) == ("0.225", "0.23", "1")


@pytest.mark.parametrize(
    "prices",
    [
        {},
        {"input_mtok": "1"},
        {"output_mtok": "1"},
        {"input_mtok": "1", "output_mtok": "1", "requests_kcount": "5"},
    ],
)
def test_a_listing_that_does_not_tell_the_whole_price_is_unknown_and_never_nought(listed, prices):
    listed(flat(**prices))
    assert example_price() is None


def test_the_tier_is_the_one_that_the_longest_prompt_falls_in(listed):
    listed(ModelPrice(input_mtok=tiered("1", (1000, "2"), (9000, "4")), output_mtok=tiered("5", (1000, "6"))))
    short, middle = example_price(longest_prompt_tokens=1000), example_price(longest_prompt_tokens=1001)
    assert (rates(short), rates(middle)) == (("1", "1", "5"), ("2", "2", "6"))
    assert short is not None
    assert "longest prompts" not in short.source
    assert middle is not None
    assert middle.source.endswith("example m, as for its longest prompts")


def test_the_tier_is_the_dearest_when_the_longest_prompt_is_unknown(listed):
    listed(ModelPrice(input_mtok=tiered("1", (1000, "2"), (9000, "4")), output_mtok=Decimal("5")))
    assert rates(example_price()) == ("4", "4", "5")


def test_the_price_is_that_of_the_dearest_time_of_day_at_whatever_time_one_asks(listed):
    by_night = ConditionalPrice(prices=flat(input_mtok="1", cache_read_mtok="0.1", output_mtok="2"))
    working_hours = TimeOfDateConstraint(time(8, tzinfo=UTC), time(17, tzinfo=UTC))
    by_day = ConditionalPrice(working_hours, prices=flat(input_mtok="2", cache_read_mtok="0.2", output_mtok="4"))
    listed([by_night, by_day])
    asked = [example_price(now=MORNING.replace(hour=hour)) for hour in range(24)]
    assert {rates(price) for price in asked} == {("2", "0.2", "4")}
    assert all(price and price.source.endswith("example m, at its dearest time of day") for price in asked)


def test_prompt_tokens_cost_what_writing_them_to_the_hosts_cache_costs_where_that_is_dearer(listed):
    listed(flat(input_mtok="1", cache_read_mtok="0.1", cache_write_mtok="1.25", output_mtok="2"))
    price = example_price()
    assert rates(price) == ("1.25", "0.1", "2")
    assert price is not None
    assert price.source.endswith("example m, prompt tokens as if written to the host's cache, which costs more")


# --- a price the user states --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0.88/0.88", ("0.88", "0.88", "0.88")),
        ("3/15", ("3", "3", "15")),
        ("3/0.3/15", ("3", "0.3", "15")),
        (" 3 / 0.3 / 15 ", ("3", "0.3", "15")),
        ("0/0", ("0", "0", "0")),
    ],
)
def test_a_stated_price_is_read_as_input_cached_and_output(text, expected):
    price = parse_price(text)
    assert rates(price) == expected
    assert price.source == "--price"


@pytest.mark.parametrize(
    "text",
    [
        *("", "3", "3/", "/3", "1/2/3/4", "1;2", "a/b", "0,88/0,88", "$1/$2", "1/2\n3", "٣/٣"),
        *("-1/2", "1/-2", "nan/1", "1/inf", "Infinity/1", "1e9/1", "1_0/1", "1234567/1", "0.0000000001/1"),
    ],
)
def test_a_price_that_is_no_two_or_three_plain_decimals_is_refused_in_one_sentence(text):
    with pytest.raises(ConfigError, match="input/output or input/cached/output in USD per million tokens") as caught:
        parse_price(text)
    assert "\n" not in str(caught.value)
    assert repr(text) in str(caught.value)


def test_a_cached_price_above_the_input_price_is_taken_for_a_wrong_order():
    with pytest.raises(ConfigError, match="the order is input/cached/output"):
        parse_price("3/15/0.3")


# --- what one request costs ----------------------------------------------------------------------------------------

PRICE = Price(Decimal("3"), Decimal("0.3"), Decimal("15"), "here")


def usage(prompt: int | None = 1_000_000, cached: int | None = None, output: int | None = 0) -> Usage:
    return Usage(prompt, cached, output)


def test_a_request_counts_cached_tokens_at_their_price_and_the_unsaid_as_not_cached():
    assert PRICE.request_usd(usage(output=1000), MORNING) == Decimal("3.015")
    assert PRICE.request_usd(usage(cached=1_000_000), MORNING) == Decimal("0.3")


@pytest.mark.parametrize("said", [usage(prompt=None), usage(output=None), usage(cached=1_000_001)])
def test_what_a_request_cost_is_unknown_where_its_reply_does_not_say_or_contradicts_itself(said):
    assert PRICE.request_usd(said, MORNING) is None


def test_a_server_of_your_own_costs_nothing_whatever_it_says():
    assert FREE.request_usd(usage(prompt=None), MORNING) == 0


def test_a_request_costs_the_tier_of_its_own_length(listed):
    listed(ModelPrice(input_mtok=tiered("1", (1000, "2"), (9000, "4")), output_mtok=tiered("5", (1000, "6"))))
    price = example_price()
    assert price is not None
    costs = [price.request_usd(usage(prompt=tokens, output=1), MORNING) for tokens in (1000, 1001, 9001)]
    assert costs == [Decimal("0.001005"), Decimal("0.002008"), Decimal("0.03601")]


def test_a_request_costs_what_its_hour_costs(listed):
    working_hours = TimeOfDateConstraint(time(8, tzinfo=UTC), time(17, tzinfo=UTC))
    by_day = ConditionalPrice(working_hours, prices=flat(input_mtok="2", output_mtok="4"))
    listed([ConditionalPrice(prices=flat(input_mtok="1", output_mtok="2")), by_day])
    price = example_price()
    assert price is not None
    assert price.request_usd(usage(), MORNING) == 2
    assert price.request_usd(usage(), MORNING.replace(hour=20)) == 1


@given(st.integers(0, 20_000), st.integers(0, 20_000), st.integers(0, 300), st.integers(0, 23))
def test_no_request_costs_more_than_the_most_that_its_tokens_can_cost(prompt, cached, output, hour):
    price = find_price("openai-compatible", "deepseek-chat", "https://api.deepseek.com", now=MORNING)
    assert price is not None
    cost = price.request_usd(usage(prompt, min(prompt, cached), output), MORNING.replace(hour=hour))
    assert cost is not None
    assert cost <= price.most_usd(prompt, output)


@pytest.mark.parametrize(
    ("cost", "text"),
    [("0E-6", "0"), ("0.000000300", "0.0000003"), ("12.50", "12.5"), ("1E+3", "1000"), ("100", "100")],
)
def test_a_cost_is_written_in_plain_digits(cost, text):
    assert plain_usd(Decimal(cost)) == text
    assert plain_usd(None) is None
