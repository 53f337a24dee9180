"""The examples beside docs/policy.md work as they stand."""

import re
from pathlib import Path

import yaml

from eval.billing.judging.policy import Measured, check_policy, read_policy
from recipes.commands import options_of

DOCS = Path(__file__).resolve().parents[3] / "docs"


def test_the_example_policy_is_one():
    path = DOCS / "examples" / "policy.yaml"
    policy = read_policy(path)
    assert (policy.least_questions, policy.gains) == (100, {"weight_bytes": 0.75, "decode": 1.2})
    assert policy.of_domain("medical") == ("must", {"accuracy": 5, "answer_bits_per_byte": 0.1})
    assert policy.of_domain("science") == ("must", {"accuracy": 8, "answer_bits_per_byte": 0.1})
    assert policy.of_domain("math") == ("should", {"accuracy": 10, "a_slow": 10})
    assert policy.of_domain("law") == ("told", {})
    domains = ("medical", "math", "science", "commonsense")
    check_policy(policy, path, Measured(domains, both_modes=True, needles=True, prose=True, gains=True))


def test_the_policy_on_the_page_is_one(tmp_path):
    (text,) = re.findall(r"```yaml\n(must:.*?)```", (DOCS / "policy.md").read_text(), re.S)
    (tmp_path / "policy.yaml").write_text(text)
    assert read_policy(tmp_path / "policy.yaml").of_domain("math") == ("should", {"accuracy": 10})


def test_the_release_gate_is_a_workflow_whose_options_exist():
    gate = yaml.safe_load((DOCS / "examples" / "release-gate.yml").read_text())
    assert gate[True] == {"push": {"tags": ["v*"]}}  # `on` is a truth value to YAML 1.1
    steps = gate["jobs"]["gate"]["steps"]
    assert all(("uses" in step) != ("run" in step) for step in steps)
    assert gate["jobs"]["release"]["needs"] == "gate"
    (command,) = [step["run"] for step in steps if step.get("run", "").startswith("evaluate compare")]
    known = options_of("evaluate compare")
    given = {word[2:] for word in command.split() if word.startswith("--")}
    assert {"policy", "domains", "out"} <= given <= {*known, *(option.negation for option in known.values())}
