"""Every command that the documents show is run, on the sample model and little data, page by page as a reader would."""

import os
import re
import shutil
from pathlib import Path

import pytest

from tests.support.documented import PAGES, ROOT, commands, documented_folder, outputs, run_here

# Run once, in this order: what the pages take for granted.
_BILL = "--data questions --domains medical,math,science,commonsense"
BEFORE = f"""
prune scan full --text prose.jsonl --out scan.json
prune heads full --text prose.jsonl --out heads.json
prune time full --out time.json
prune concepts full --text prose.jsonl --out concepts.json
prune cut full --n 8 --scan scan.json --check 2 --out pruned
heal patch pruned --teacher full --text prose.jsonl --out patched
heal distill pruned --teacher full --text prose.jsonl --out runs/adapter
heal distill pruned --teacher full --text prose.jsonl --teacher-data self --prompts asked.jsonl --out runs/self
heal merge runs/adapter --out healed
evaluate sweep full --scan scan.json --sizes 4,6 --data questions --domains medical,math --out sweep
evaluate sweep full --scan scan.json --sizes 4,6 --data questions --domains medical --out sweep-by-similarity
evaluate sweep full --sizes 4,6 --starts deepest --data questions --domains medical --out sweep-deepest
evaluate compare full pruned --labels full,of-4 {_BILL} --out bill-of-4
evaluate compare full healed --labels full,of-8 {_BILL} --out bill-of-8
"""
LINKS = {"runs/pruned": "pruned", "runs/patched": "patched", "models/healed": "healed", "bill": "bill-of-4",
         "runs/healed": "healed", "runs/frontier/comparison": "bill-of-8"}  # fmt: skip
# Pages whose commands do not run here, each with its reason.
NOT_HERE = {
    "bench/README.md": "measurements of hours; the commands of bench/ have tests of their own",
    "docs/index.md": "runs as it stands in tests/test_docs.py",
    "docs/backends.md": "asks through vLLM, which has an environment and tests of its own",
    "docs/adding/question-set.md": "followed in tests/test_adding.py",
    "docs/adding/domain.md": "followed in tests/test_adding.py",
}
# Commands that need what is not here.
_NEEDS = {
    "evaluate prepare": "reads the hub, or files that the user has",
    "--device-map auto": "needs GPUs",
    "--card": "asked of a card in tests/heal/budget",
}


def name_of(page):
    return str(page.relative_to(ROOT))


@pytest.fixture(scope="module")
def base(sample_model, tmp_path_factory):
    place = documented_folder(tmp_path_factory.mktemp("documented"), sample_model, sample_model.parent)
    page = (ROOT / "docs" / "policy.md").read_text("utf-8")
    (place / "policy.yaml").write_text(re.search("^```yaml\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)[1], "utf-8")
    before = os.getcwd()
    os.chdir(place)
    try:
        for line in BEFORE.strip().splitlines():
            assert not (said := run_here(line.split())), said
        for link, target in LINKS.items():
            Path(link).parent.mkdir(parents=True, exist_ok=True)
            shutil.copytree(target, link, copy_function=os.link)
    finally:
        os.chdir(before)
    return place


def shown(page):
    for words in commands(page):
        line = " ".join(words)
        if "..." not in words and not words[1].startswith("-") and not any(need in line for need in _NEEDS):
            yield words


@pytest.mark.slow
@pytest.mark.parametrize(
    "page", [page for page in PAGES if name_of(page) not in NOT_HERE and [*shown(page)]], ids=name_of
)
def test_the_commands_of_a_page_run(page, base, tmp_path, monkeypatch):
    place = tmp_path / "here"
    shutil.copytree(base, place, symlinks=True, copy_function=os.link)
    monkeypatch.chdir(place)
    seen = set()
    for words in shown(page):  # what the page makes before it is used is not there yet
        made = outputs(words)
        for out in made:
            if str(out) not in seen:
                shutil.rmtree(out) if out.is_dir() else out.unlink(missing_ok=True)
        seen |= {re.sub("/$", "", word) for word in words}
    failed = [said for words in shown(page) if (said := run_here(words))]
    assert not failed, "\n\n".join(failed)


def test_each_page_that_is_left_out_is_there():
    assert set(NOT_HERE) <= {name_of(page) for page in PAGES}
