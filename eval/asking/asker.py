"""The model as lm-eval sees it: answers that are known come from the store, and only the rest is asked.

lm-eval's own cache of answers is not used: its key ignores which model answers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.api.model import LM

from eval.asking.cache import AnswerStore, request_key
from eval.asking.chat import render_chat
from prune.common.screen.terminal import Progress

_FACTS = "facts"  # key of what is known of the model only once it is loaded
_HALVED = "halved"  # key of the requests at a time that a run ended with, if not those of the facts


class Asker(LM):
    """An LM of lm-eval that opens the real one when the first unknown request comes, if one comes.

    `asked` and `known` count requests that the model answered now, and that the store knew. `truncated` counts
    prompts longer than the context, whose start was cut, whichever way their answers came. `scored` is the most tokens
    of a prompt and its continuation that the model reads, see `eval.asking.backends.longest_scored`. `sizes` counts
    answers by how many requests were asked at a time, now or in the run that asked; None where that is not known.
    Windows are not among them: they are asked one by one.
    """

    def __init__(
        self,
        open_model: Callable[[], Any],
        tokenizer: Any,
        answers: AnswerStore,
        *,
        max_length: int,
        scored: int,
        bar: Progress,
    ) -> None:
        super().__init__()
        self.tokenizer = tokenizer
        self.max_length = max_length
        self.scored = scored
        self.bar = bar
        self.asked = self.known = self.truncated = 0
        self.sizes: Counter[int | None] = Counter()
        self._open = open_model
        self._answers = answers
        self._model: Any = None

    @property
    def model(self) -> Any:
        """The real LM, opened now if it was not yet."""
        if self._model is None:
            self.bar.note("loading")
            self._model = self._open()
            self._model.set_cache_hook(_Hook(self._keep))
            self.bar.note("")
            if _FACTS not in self._answers:
                self._answers.add(_FACTS, self._model.facts)
        return self._model

    @property
    def facts(self) -> dict[str, Any]:
        """What loading settled (the precision that `auto` took), now or in the run that asked."""
        facts: dict[str, Any] = (self._answers if _FACTS in self._answers else {_FACTS: self.model.facts})[_FACTS]
        return facts

    @property
    def rows(self) -> int | None:
        """Requests that are asked at a time, or that were by the run that asked; None where that is not known."""
        if self._model is not None:
            return self._rows_now()
        if _HALVED in self._answers:
            return int(self._answers[_HALVED])
        rows: int | None = self._answers[_FACTS].get("batch_size") if _FACTS in self._answers else None
        return rows

    def _rows_now(self) -> int | None:
        rows: int | None = self._model.facts.get("batch_size")
        return rows

    @property
    def tokens(self) -> int:
        """Tokens that went through the model now."""
        return 0 if self._model is None else int(self._model.tokens)

    @property
    def notes(self) -> list[str]:
        """What the model has to tell of its work now."""
        return [] if self._model is None else list(self._model.notes)

    def loglikelihood(self, requests: list[Instance]) -> Any:
        """(log-likelihood, whether it is the greedy continuation) of each request."""
        return [(value[0], bool(value[1])) for value in self._answer("loglikelihood", requests)]

    def loglikelihood_rolling(self, requests: list[Instance]) -> Any:
        """Log-likelihood of whole texts."""
        return [value[0] for value in self._answer("loglikelihood_rolling", requests)]

    def generate_until(self, requests: list[Instance]) -> Any:
        """The text generated for each request. What is sampled is drawn anew each time and never kept."""
        fixed = [not request.args[1].get("do_sample", False) for request in requests]
        drawn = [request for request, kept in zip(requests, fixed, strict=True) if not kept]
        asked = iter(self.model.generate_until(drawn) if drawn else [])
        kept = iter(self._answer("generate_until", [r for r, keep in zip(requests, fixed, strict=True) if keep]))
        return [next(kept)[0] if keep else next(asked) for keep in fixed]

    def window_nats(self, windows: Sequence[list[int]]) -> list[float]:
        """Summed NLL in nats of each window's tokens, each given those before it; the first is not scored."""
        answers = self._look_up("window", windows, lambda new: self.model.window_nats(new))
        return [float(answer) for answer in answers]

    def written(self, prompts: Sequence[tuple[int, ...]], new_tokens: int) -> list[str]:
        """What the model writes after prompts of tokens, greedily, without what it thinks before."""
        arguments = [[list(ids), new_tokens] for ids in prompts]
        answers = self._look_up(
            "written", arguments, lambda new: self.model.written([ids for ids, _ in new], new_tokens)
        )
        return [str(answer) for answer in answers]

    def _look_up(self, kind: str, arguments: Sequence[Any], ask: Callable[[list[Any]], Any]) -> list[Any]:
        """One value for each of `arguments`; `ask` has the model answer the new ones, which are kept at once."""
        keys = [request_key(kind, given) for given in arguments]
        new = {key: given for key, given in zip(keys, arguments, strict=True) if key not in self._answers}
        self.known += len(arguments) - len(new)
        self.bar.advance(len(arguments) - len(new))
        if new:
            self.asked += len(new)
            ask(list(new.values()))
        if kind != "window":
            self._count(keys)
        return [self._answers[key][0] for key in keys]

    def close(self) -> None:
        """Let the model go, and the process it may have."""
        if self._model is None:
            return
        if (rows := self._rows_now()) != self._answers[_FACTS].get("batch_size"):
            self._answers.add(_HALVED, rows)
        if hasattr(self._model, "close"):
            self._model.close()

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """The prompt of a chat, see `render_chat`."""
        return render_chat(self.tokenizer, chat_history, add_generation_prompt)

    @property
    def tokenizer_name(self) -> str:
        """Known to lm-eval, which names its cache of prompts by it; that cache is not used either."""
        return str(self.tokenizer.name_or_path)

    def _answer(self, kind: str, requests: list[Instance]) -> list[Any]:
        keys = [request_key(kind, request.args) for request in requests]
        new = {key: r for key, r in zip(keys, requests, strict=True) if key not in self._answers}
        self.known += len(requests) - len(new)
        self.bar.advance(len(requests) - len(new))
        if new:
            self.asked += len(new)
            answers = getattr(self.model, kind)(list(new.values()))
            for (key, request), answer in zip(new.items(), answers, strict=True):
                self._put(key, kind, request.args, answer)  # what the backend did not hand over while it worked
        self._count(keys)
        known = [self._answers[key] for key in keys]
        self.truncated += sum(value[-1] for value in known)
        return known

    def _count(self, keys: Sequence[str]) -> None:
        self.sizes.update(self._answers.rows(key) for key in keys)

    def _keep(self, kind: str, arguments: Any, answer: Any) -> None:
        self._put(request_key(kind, arguments), kind, arguments, answer)

    def _put(self, key: str, kind: str, arguments: Any, answer: Any) -> None:
        if key in self._answers:
            return
        if kind == "window":
            self._answers.add(key, [answer])
        elif kind == "written":
            self._answers.add(key, [answer], self._rows_now())
        else:
            values = [float(answer[0]), bool(answer[1])] if kind == "loglikelihood" else [answer]
            self._answers.add(key, [*values, self._cut(kind, arguments)], self._rows_now())

    def _cut(self, kind: str, arguments: Any) -> bool:
        if kind == "loglikelihood_rolling":  # a long text is scored in pieces
            return False
        room = self.scored if kind == "loglikelihood" else self.max_length - arguments[1].get("max_gen_toks", 0)
        text = arguments[0] + arguments[1] if kind == "loglikelihood" else arguments[0]
        return len(self.tokenizer(text)["input_ids"]) > room


class _Hook:
    """What lm-eval's backends call after each batch, once per answer: so a killed run keeps what it got."""

    def __init__(self, keep: Callable[[str, Any, Any], None]) -> None:
        self._keep = keep

    def add_partial(self, attr: str, req: Any, res: Any) -> None:
        self._keep(attr, req, res)
