"""What a release has to keep and to gain: domains in tiers, limits of their losses, gains. Pure but for `read_policy`.

`--max-loss 5%` is the short form: every domain must keep its accuracy but for 5 points, see `at_most`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import BaseModel, BeforeValidator, Field, ValidationError, model_validator

from prune.common.checked import checks_arguments
from prune.common.errors import RegrowthError, UsageError, first_line
from prune.common.files.artefact import Part, first_fault

TierName = Literal["must", "should", "told"]
TIERS: tuple[TierName, ...] = get_args(TierName)
GainName = Literal["parameters", "weight_bytes", "kv_bytes", "peak_memory", "prefill", "decode"]
SMALLER_IS_BETTER = ("parameters", "weight_bytes", "kv_bytes", "peak_memory")  # the other gains are speeds
_NOT_OF_DOMAINS = ("needle_recall", "prose_bits_per_byte")
_RATIO = re.compile(r"\s*(\d+(?:\.\d+)?)\s*x?\s*")

Points = Annotated[float, Field(ge=0, le=100, allow_inf_nan=False)]
Bits = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Limits(Part):
    """The most that a domain may lose."""

    accuracy: Points | None = Field(
        default=None, description="points of accuracy, in each protocol that the domain is asked in"
    )
    answer_bits_per_byte: Bits | None = Field(
        default=None, description="bits of answer NLL per byte of the right answers"
    )
    a_fast: Points | None = Field(default=None, description="points of accuracy at once (--thinking fast,slow)")
    a_slow: Points | None = Field(default=None, description="points of accuracy after a chain of thought (the same)")

    def over(self, wider: Limits) -> Limits:
        """These limits, and those of `wider` where there is none here."""
        own = self.model_dump()
        return Limits(
            **{name: getattr(wider, name) if own[name] is None else own[name] for name in Limits.model_fields}
        )

    @property
    def of_domains(self) -> dict[str, float]:
        """Measure -> limit, of those that are set."""
        return {name: value for name in Limits.model_fields if (value := getattr(self, name)) is not None}


def _by_name(given: Any) -> Any:
    """`[medical, math]`, or a mapping that may give a domain limits of its own, as name -> limits."""
    if isinstance(given, list | tuple):
        if twice := [name for number, name in enumerate(given) if name in given[:number]]:
            raise ValueError(f"{twice[0]} stands there twice")
        given = dict.fromkeys(given)
    if isinstance(given, Mapping):
        if not given:
            raise ValueError("names no domain; leave it out for all that no other tier names")
        return {name: {} if limits is None else limits for name, limits in given.items()}
    return given


class Tier(Limits):
    """Domains that are held to the same limits; without `domains`, all that no other tier names."""

    domains: Annotated[dict[str, Limits] | None, BeforeValidator(_by_name)] = Field(
        default=None, description="a list of names, or a mapping of each to limits of its own that go before the tier's"
    )
    needle_recall: Points | None = Field(
        default=None, description="points of needle recall, all lengths together (--needles)"
    )
    prose_bits_per_byte: Bits | None = Field(
        default=None, description="bits per byte of held-out prose, each text (--text)"
    )

    @property
    def limits(self) -> dict[str, float]:
        """Measure -> limit, of all that the tier limits anywhere."""
        every = dict(self.of_domains)
        for own in (self.domains or {}).values():
            every |= own.of_domains
        return every | {name: value for name in _NOT_OF_DOMAINS if (value := getattr(self, name)) is not None}

    @property
    def takes_the_rest(self) -> bool:
        """Whether it holds domains that no tier names."""
        return self.domains is None and bool(self.of_domains)


def _ratios(given: Any) -> Any:
    """`0.75x` as 0.75."""
    if not isinstance(given, Mapping):
        return given
    ratios = {}
    for name, value in given.items():
        match = _RATIO.fullmatch(value) if isinstance(value, str) else None
        ratios[name] = float(match[1]) if match else value
    return ratios


class Policy(Part):
    """What every model that is compared has to keep of the full one, and to gain over it."""

    must: Tier | None = Field(
        default=None, description="GO only where the whole interval of each loss is within its limit"
    )
    should: Tier | None = Field(
        default=None, description="NO-GO where the whole interval of a loss is beyond its limit"
    )
    told: Tier | None = Field(default=None, description="said, and never decides; so are domains that no tier holds")
    least_questions: Annotated[int, Field(ge=1)] = Field(default=1, description="a row of fewer decides nothing")
    gains: Annotated[dict[GainName, Annotated[float, Field(gt=0, allow_inf_nan=False)]], BeforeValidator(_ratios)] = (
        Field(
            default={},
            description="multiples of the full model's: at most of parameters and bytes, at least of speeds",
        )
    )

    @model_validator(mode="after")
    def _agrees(self) -> Self:
        tiers = self.tiers
        for name, tier in tiers.items():
            if name != "told" and not tier.limits:
                raise ValueError(f"{name} has no limit; give it one, such as accuracy: 5, or take told")
            for domain, own in (tier.domains or {}).items():
                if name != "told" and not own.over(tier).of_domains:
                    raise ValueError(
                        f"{name} has no limit for {domain}; give it one, such as accuracy: 5, or take told"
                    )
        if not self.gains and not any(tier.limits for name, tier in tiers.items() if name != "told"):
            raise ValueError("it decides nothing; give must or should a limit such as accuracy: 5, or name gains")
        _once(((domain, name) for name, tier in tiers.items() for domain in tier.domains or {}), "domain {} stands")
        _once(
            ((key, name) for name, tier in tiers.items() for key in _NOT_OF_DOMAINS if key in tier.limits), "{} stands"
        )
        if len(rest := [name for name, tier in tiers.items() if tier.takes_the_rest]) > 1:
            raise ValueError(
                f"{' and '.join(rest)} name no domains, and only one tier can take the rest; name them in one"
            )
        return self

    @property
    def tiers(self) -> dict[TierName, Tier]:
        """Those that there are, the strictest first."""
        return {name: tier for name in TIERS if (tier := getattr(self, name)) is not None}

    def of_domain(self, domain: str) -> tuple[TierName, dict[str, float]]:
        """The tier that holds a domain, and its limits by measure."""
        for name, tier in self.tiers.items():
            if domain in (tier.domains or {}):
                return name, (tier.domains or {})[domain].over(tier).of_domains
        for name, tier in self.tiers.items():
            if tier.takes_the_rest:
                return name, tier.of_domains
        return "told", {}

    def of_measure(self, measure: str) -> tuple[TierName, float] | None:
        """The tier that limits needle recall or prose, and the limit; None where none does."""
        for name, tier in self.tiers.items():
            if measure in tier.limits:
                return name, tier.limits[measure]
        return None

    @property
    def proved(self) -> tuple[str, ...]:
        """Domains that `must` names: each has to be shown to hold."""
        return tuple((self.must.domains if self.must else None) or ())

    @property
    def demanded(self) -> tuple[str, ...]:
        """Measures that `must` limits anywhere: each has to be measured of every model.

        None in the short form, which limits whatever is asked.
        """
        if self.must is None or (self.must.accuracy is not None and self == at_most(self.must.accuracy)):
            return ()
        return tuple(self.must.limits)


def _once(pairs: Iterable[tuple[str, str]], what: str) -> None:
    tiers: dict[str, str] = {}
    for key, tier in pairs:
        if key in tiers:
            raise ValueError(f"{what.format(key)} in {tiers[key]} and in {tier}; leave it in one")
        tiers[key] = tier


def at_most(points: float) -> Policy:
    """The short form: no domain may lose more points of accuracy, at once or after a chain of thought either."""
    return Policy(must=Tier(accuracy=points, a_fast=points, a_slow=points))


def policy_of(max_loss: str | None, file: str | Path | None) -> Policy | None:
    """The policy of --max-loss or of --policy; None where neither is given.

    Raises:
        UsageError: both are given, or the limit is no percentage.
        RegrowthError: as of `read_policy`.
    """
    if max_loss is not None and file is not None:
        raise UsageError("--max-loss is the short form of a --policy; give one of the two")
    if max_loss is not None:
        return parse_limit(max_loss)
    return None if file is None else read_policy(file)


def parse_limit(text: str) -> Policy:
    """`5%` as the policy of 5 points; a UsageError for what is no percentage from 0 to 100."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*%\s*", text)
    if match is None or float(match.group(1)) > 100:
        raise UsageError(f"--max-loss {text} is no percentage from 0% to 100%; write it as 5%")
    return at_most(float(match.group(1)))


@dataclass(frozen=True)
class Measured:
    """What a comparison measures, by which a policy is checked before anything is asked.

    `remedy`: what to do where something is not measured; None where the options that measure it are there to add.
    """

    domains: tuple[str, ...]
    both_modes: bool
    needles: bool
    prose: bool
    gains: bool
    remedy: str | None = None


def check_policy(policy: Policy, name: str | Path, measured: Measured) -> None:
    """Refuse a policy that limits what is not measured; `name` is the file's.

    Raises:
        UsageError: one line that says which, and the option that measures it.
    """
    for tier, held in policy.tiers.items():
        for domain in held.domains or {}:
            if domain not in measured.domains:
                asked = ", ".join(measured.domains) or "none"
                raise UsageError(f"--policy {name}: {tier} names domain {domain}, which is not asked (asked: {asked})")
        needed = {
            "a_fast": (measured.both_modes, "add --thinking fast,slow"),
            "a_slow": (measured.both_modes, "add --thinking fast,slow"),
            "needle_recall": (measured.needles, "add --needles"),
            "prose_bits_per_byte": (measured.prose, "add --text"),
            "accuracy": (bool(measured.domains), "add --domains and --data"),
            "answer_bits_per_byte": (bool(measured.domains), "add --domains and --data"),
        }
        for measure in held.limits:
            there, remedy = needed[measure]
            if not there:
                remedy = measured.remedy or remedy
                raise UsageError(f"--policy {name}: {tier} limits {measure}, which is not measured; {remedy}")
    if policy.gains and not measured.gains:
        remedy = measured.remedy or "leave out --no-gains"
        raise UsageError(f"--policy {name} asks for gains, which are not measured; {remedy}")


@checks_arguments
def read_policy(path: str | Path) -> Policy:
    """Read a policy file.

    Raises:
        RegrowthError: it is missing, no YAML, says what it cannot, or contradicts itself; one line with the field.
    """
    import yaml

    try:
        text = Path(path).read_text("utf-8")
        twice = _repeated(yaml.compose(text, Loader=yaml.SafeLoader))
        document = yaml.safe_load(text)
    except OSError as error:
        raise RegrowthError(f"--policy {path} cannot be read ({error.strerror})") from None
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise RegrowthError(f"--policy {path} is not YAML ({first_line(error)})") from None
    if twice is not None:  # YAML would take the last one in silence
        raise RegrowthError(f"--policy {path}:{twice.start_mark.line + 1}: {twice.value} stands there twice")
    if not isinstance(document, dict):
        raise RegrowthError(f"--policy {path} is no mapping; it takes {', '.join(Policy.model_fields)}")
    try:
        return Policy.model_validate(document)
    except ValidationError as error:
        raise RegrowthError(f"--policy {path}: {_fault(error)}") from None


def _repeated(node: Any) -> Any:
    """The first key of a YAML tree that stands twice in its mapping; None where none does."""
    parts = node.value if node is not None and isinstance(node.value, list) else []
    pairs = [part for part in parts if isinstance(part, tuple)]
    keys = [key.value for key, _ in pairs]
    own = (key for number, (key, _) in enumerate(pairs) if key.value in keys[:number])
    inner = (_repeated(part[1] if isinstance(part, tuple) else part) for part in parts)
    return next((found for found in (*own, *inner) if found is not None), None)


def _fault(error: ValidationError) -> str:
    fault = error.errors(include_url=False)[0]
    *inside, name = map(str, fault["loc"] or ("",))
    if fault["type"] == "extra_forbidden":
        kind: type[BaseModel] = Limits if "domains" in inside else Tier if inside else Policy
        takes = f"{'.'.join(inside) or 'the file'} takes {', '.join(kind.model_fields)}"
        return f"unknown field {name}; {takes}"
    if inside[:1] == ["gains"] and name == "[key]":
        return f"gains: {inside[-1]} is not measured; it takes {', '.join(get_args(GainName))}"
    return first_fault(error)
