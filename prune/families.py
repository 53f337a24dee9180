"""The table of families: where each keeps its layers, and which config fields speak of layers.

A family is a `model_type` of transformers. To add one, add a row; `prune/configs.py` applies it,
`tests/test_every_family.py` proves it, and `make families` writes it into docs/families.md.
"""

from __future__ import annotations

from dataclasses import replace

from prune import layer_rules as rules
from prune.family import Family
from prune.layer_rules import FULL, HYBRID, HYBRID_SLIDING, INDEXED, LINEAR, Rule

_LLAMA = ("model.layers.", "layers.", "model.language_model.layers.", "language_model.model.layers.")
_GPT2 = ("transformer.h.", "h.")
_GPT2_COUNT = ("n_layer", "num_hidden_layers")
_DECODER = ("model.decoder.layers.", "decoder.layers.")
_STATE = ("backbone.layers.", "layers.")

PLAIN = Family(_LLAMA)


def _typed(layer_types: Rule | None = None, mlp: Rule | None = None, **more: object) -> Family:
    """A decoder named as Llama's, with one or both of the usual lists."""
    lists = {"layer_types": layer_types} | ({"mlp_layer_types": mlp} if mlp else {})
    return replace(PLAIN, lists={**lists, **more.pop("lists", {})}, **more)  # type: ignore[dict-item, arg-type]


def _encoder(base: str) -> Family:
    """BERT and its kin, as decoders."""
    return Family((f"{base}.encoder.layer.", "encoder.layer."))


def _under(section: str, family: Family, *prefixes: str, flat: bool = False) -> Family:
    """A multimodal wrapper around a text decoder."""
    return replace(family, section=section, flat=flat, prefixes=(*prefixes, *family.prefixes))


_SEQ2SEQ = Family(_DECODER, count=("decoder_layers",))
_DENSE_FIRST = ("first_k_dense_replace", "moe_layer_freq")
_FIRST = "the first layer is built unlike the others, so it has to stay"
_LAST = "the last layer is built unlike the others, so it has to stay"
_OWN = "a layer computes with its own number, so layers may not move"
_KEYS = "a layer that stays attends to keys of a dropped one"
_PICKS = "a layer that stays takes over the pick of tokens of a dropped one"
_EXPERTS = "moe_layer_interval says which layers have experts"

_MOE_STEPS = replace(PLAIN, indices={"mlp_only_layers": 0}, steps=rules.sparse_steps)
_GEMMA3 = _typed(
    rules.last_of(6, "sliding_window_pattern"), periods=("sliding_window_pattern", "_sliding_window_pattern")
)
_SIDE_BY_SIDE = "hidden_size_per_layer_input: one tensor holds all layers' embeddings side by side"
_GEMMA3N = _typed(
    rules.last_of(5),
    fixed={_SIDE_BY_SIDE: rules.own_number_of("hidden_size_per_layer_input", 256)},
    lists={"activation_sparsity_pattern": None, "intermediate_size": None},
    tails=("num_kv_shared_layers",),
    links={_KEYS: rules.shared_keys},
)
_GEMMA4 = _typed(
    rules.sixth_and_last,
    fixed={
        _SIDE_BY_SIDE: rules.own_number_of("hidden_size_per_layer_input", 256),
        "the last layer has to attend in full": rules.last_type,
    },
    numbered=("per_layer_config",),
    tails=("num_kv_shared_layers",),
    links={_KEYS: rules.shared_keys},
)
_GEMMA4U = replace(_GEMMA4, fixed={"the last layer has to attend in full": rules.last_type})
_ASSISTANT = Family(
    refused="it drafts for another model, whose keys and values its layers read, and has hardly a layer to spare"
)
_TEXT_TO_AUDIO = "an encoder-decoder, whose decoder predicts several streams of audio"
_LLAMA4 = _typed(
    rules.llama4_types,
    lists={"no_rope_layers": rules.no_rope},
    indices={"moe_layers": 0},
    periods=("no_rope_layer_interval", "interleave_moe_layer_step"),
)
_QWEN3_5 = _typed(rules.last_of(4, "full_attention_interval", rest=LINEAR), periods=("full_attention_interval",))
_QWEN3_NEXT = replace(_QWEN3_5, indices={"mlp_only_layers": 0}, steps=rules.sparse_steps)
_QWEN4 = _typed(
    rules.last_of(4, "full_attention_interval", one=INDEXED, rest=LINEAR),
    periods=("full_attention_interval",),
    indices={"ple_layer_ids": 1},
    fixed={"a layer with n-gram embeddings hashes with its rank among such layers": rules.ple_ordinal},
)
_WINDOWED = _typed(rules.late_windows, counts=("max_window_layers",))
_DSA = _typed(rules.same(INDEXED), rules.dense_below(3, step=None), counts=("first_k_dense_replace",))
_DOTS3 = _typed(
    rules.dots3_types, rules.dense_below(1), lists={"moe_layer_freq": None}, numbered=("per_layer_config",),
    counts=("first_k_dense_replace",),
)  # fmt: skip
_MIMO = _typed(
    rules.picked(lambda layer: layer == 0 or layer % 6 == 5, FULL, rules.SLIDING),
    rules.dense_below(1, None, None),
    lists={"hybrid_layer_pattern": None, "moe_layer_freq": None},
)

FAMILIES: dict[str, Family] = {
    "afmoe": _typed(
        rules.last_of(4, "global_attn_every_n_layers"), counts=("num_dense_layers",),
    ),
    "apertus": PLAIN,
    "arcee": PLAIN,
    "aria_text": PLAIN,
    "axk1": _typed(None, rules.dense_below(1), periods=_DENSE_FIRST),
    "axk2": _typed(rules.same(INDEXED), rules.dense_below(1), periods=_DENSE_FIRST),
    "bailing_hybrid": _typed(
        rules.last_of(8, "layer_group_size", rest=LINEAR), rules.dense_below(1, step=None),
        counts=("first_k_dense_replace",),
    ),
    "bamba": replace(PLAIN, indices={"attn_layer_indices": 0}),
    "bart": _SEQ2SEQ,
    "beam": _typed(rules.sixth_and_last, rules.dense_below(3, None, None), fixed={_OWN: rules.own_number}),
    "bert": _encoder("bert"),
    "bert-generation": _encoder("bert"),
    "big_bird": _encoder("bert"),
    "bigbird_pegasus": _SEQ2SEQ,
    "biogpt": Family(("biogpt.layers.", "layers.")),
    "bitnet": PLAIN,
    "blenderbot": _SEQ2SEQ,
    "blenderbot-small": _SEQ2SEQ,
    "blt": Family(refused="its layers stand in four stacks (patcher, encoder, global, decoder), not in one"),
    "bloom": Family(_GPT2, count=_GPT2_COUNT),
    "camembert": _encoder("roberta"),
    "codegen": Family(_GPT2, count=_GPT2_COUNT),
    "cohere": PLAIN,
    "cohere2": _typed(rules.last_of(4, "sliding_window_pattern"), periods=("sliding_window_pattern",)),
    "cohere2_moe": _typed(
        rules.cohere2_moe_types, rules.dense_below(0, step=None), periods=("first_k_dense_replace",),
    ),
    "cohere_compass_text": _typed(rules.same(FULL)),
    "cpmant": Family(("cpmant.encoder.layers.", "encoder.layers.")),
    "ctrl": Family(_GPT2, count=_GPT2_COUNT),
    "cwm": _typed(rules.first_of(4)),
    "data2vec-text": _encoder("data2vec_text"),
    "dbrx": Family(("transformer.blocks.", "blocks."), count=("n_layers",)),
    "deepseek_v2": replace(PLAIN, counts=("first_k_dense_replace",)),
    "deepseek_v3": replace(PLAIN, counts=("first_k_dense_replace",)),
    "deepseek_v32": _DSA,
    "deepseek_v4": _typed(
        rules.deepseek_v4_types, rules.deepseek_v4_experts, lists={"compress_ratios": None},
        counts=("num_hash_layers",),
    ),
    "diffllama": replace(PLAIN, fixed={_OWN: rules.own_number}),
    "doge": PLAIN,
    "dots1": _typed(rules.dots1_windows, counts=("max_window_layers", "first_k_dense_replace")),
    "dots3_note": _under("text_config", _DOTS3, flat=True),
    "dots3_note_text": _DOTS3,
    "electra": _encoder("electra"),
    "emu3": _under("text_config", PLAIN, "model.text_model.layers.", "text_model.model.layers."),
    "ernie": _encoder("ernie"),
    "ernie4_5": PLAIN,
    "ernie4_5_moe": replace(
        PLAIN, counts=("moe_layer_start_index",), ends=("moe_layer_end_index",), fixed={_EXPERTS: rules.ernie_experts}
    ),
    "exaone4": _typed(rules.exaone_windows),
    "exaone_moe": _typed(
        rules.exaone_windows, rules.dense_below(1, step=None), counts=("first_k_dense_replace",),
    ),
    "falcon": Family(_GPT2),
    "falcon_h1": replace(PLAIN, plain=("mlp_multipliers", "ssm_multipliers")),
    "falcon_mamba": Family(_STATE),
    "flex_olmo": PLAIN,
    "flint": _typed(
        rules.flint_types,
        indices={"mlp_only_layers": 0}, steps=rules.flint_steps,
    ),
    "fuyu": _under("text_config", PLAIN, flat=True),
    "gemma": PLAIN,
    "gemma2": _typed(rules.last_of(2)),
    "gemma3": _under("text_config", _GEMMA3),
    "gemma3_text": _GEMMA3,
    "gemma3n": _under("text_config", _GEMMA3N),
    "gemma3n_text": _GEMMA3N,
    "gemma4": _under("text_config", _GEMMA4),
    "gemma4_assistant": _ASSISTANT,
    "gemma4_text": _GEMMA4,
    "gemma4_unified": _under("text_config", _GEMMA4U),
    "gemma4_unified_assistant": _ASSISTANT,
    "gemma4_unified_text": _GEMMA4U,
    "git": Family(("git.encoder.layer.", "encoder.layer.")),
    "glm": PLAIN,
    "glm4": PLAIN,
    "glm4_moe": replace(PLAIN, counts=("first_k_dense_replace",)),
    "glm4_moe_lite": _typed(None, rules.dense_below(1, None, None), counts=("first_k_dense_replace",)),
    "glm_moe_dsa": replace(
        _DSA, lists={**_DSA.lists, "indexer_types": rules.dsa_indexers}, links={_PICKS: rules.shared_picks},
        periods=("index_topk_pattern", "index_topk_freq", "index_skip_topk_offset"),
    ),
    "got_ocr2": _under("text_config", _WINDOWED),
    "gpt-sw3": Family(_GPT2, count=_GPT2_COUNT),
    "gpt2": Family(_GPT2, count=_GPT2_COUNT, fixed={
        "scale_attn_by_inverse_layer_idx: " + _OWN: rules.own_number_if("scale_attn_by_inverse_layer_idx"),
    }),
    "gpt_bigcode": Family(_GPT2, count=_GPT2_COUNT),
    "gpt_neo": Family(_GPT2, count=("num_layers", "num_hidden_layers"), lists={"attention_layers": None}),
    "gpt_neox": Family(("gpt_neox.layers.", "layers.")),
    "gpt_neox_japanese": Family(("gpt_neox_japanese.layers.", "layers."), fixed={_LAST: rules.last_alone}),
    "gpt_oss": _typed(rules.last_of(2)),
    "gptj": Family(_GPT2, count=_GPT2_COUNT),
    "granite": PLAIN,
    "granite_swa": _typed(rules.first_of(4), lists={"layer_rope_theta": None}),
    "granitemoe": PLAIN,
    "granitemoe_swa": _typed(rules.first_of(4), lists={"layer_rope_theta": None}),
    "granitemoehybrid": _typed(rules.granite_hybrid_types, lists={"layers_block_type": None}),
    "granitemoeshared": PLAIN,
    "helium": PLAIN,
    "hrm_text": Family(refused="its two stacks of layers run in turn, several times, so a layer is no single step"),
    "hunyuan_v1_dense": PLAIN,
    "hunyuan_v1_moe": replace(PLAIN, lists={"num_experts": None, "moe_topk": None, "num_shared_expert": None}),
    "hy_v3": _typed(None, rules.dense_below(1, None, None), counts=("first_k_dense_replace",)),
    "hy_v4": _typed(
        rules.same(INDEXED), rules.dense_below(1, None, None),
        lists={"indexer_types": rules.picked(lambda layer: layer == 0 or layer % 4 == 1, "full", "shared")},
        links={_PICKS: rules.shared_picks},
    ),
    "hyperclovax": PLAIN,
    "inkling2_text": _typed(
        rules.last_of(6, one=HYBRID, rest=HYBRID_SLIDING),
        prefixes=("model.llm.layers.",),
        beside=(("model.llm.attn_res.attn_queries.", 1), ("model.llm.attn_res.mlp_queries.", 0)),
        fixed={_FIRST: rules.first_alone, "residuals are kept in blocks of n_layers_per_attn_res_block layers":
               rules.blocks_of("n_layers_per_attn_res_block", 6)},
    ),
    "inkling_text": _typed(
        rules.inkling_types, rules.dense_below(0, "dense_mlp_idx", None), indices={"local_layer_ids": 0},
        counts=("dense_mlp_idx",), plain=("mtp_local_layer_ids",),
    ),
    "internlm3": PLAIN,
    "iquestcoder": PLAIN,
    "jais2": PLAIN,
    "jamba": replace(PLAIN, fixed={
        "attn_layer_period says which layers attend": rules.jamba_attention,
        "expert_layer_period says which layers have experts": rules.jamba_experts,
    }),
    "jetmoe": PLAIN,
    "kimi_linear": _typed(
        rules.kimi_types, rules.dense_below(1, step=None),
        indices={"linear_attn_config.full_attn_layers": 1, "linear_attn_config.kda_layers": 1},
        counts=("first_k_dense_replace",),
    ),
    "kolibri1": _typed(rules.last_of(5)),
    "laguna": _typed(
        rules.same(FULL), rules.dense_below(1, None, None), lists={"num_attention_heads_per_layer": None},
    ),
    "lfm2": _typed(rules.lfm2_types, indices={"full_attn_idxs": 0}),
    "lfm2_moe": _typed(None, counts=("num_dense_layers",)),
    "lfm3": _typed(rules.lfm3_types),
    "llama": PLAIN,
    "llama4": _under("text_config", _LLAMA4),
    "llama4_text": _LLAMA4,
    "longcat_flash": replace(PLAIN, count=("num_layers",)),
    "mamba": Family(_STATE),
    "mamba2": Family(_STATE),
    "marian": _SEQ2SEQ,
    "mbart": _SEQ2SEQ,
    "megatron-bert": _encoder("bert"),
    "mellum": _typed(
        rules.same(FULL), rules.dense_below(0, None, None), plain=("mtp_layer_types", "mtp_mlp_layer_types"),
    ),
    "mimo_v2_flash": _MIMO,
    "minicpm3": replace(PLAIN, root_depth=("scale_depth",)),
    "minimax": _typed(
        rules.last_of(2, one=LINEAR, rest=FULL), lists={"attn_type_list": None},
        stored=(".slope_rate", ".query_decay", ".key_decay", ".diagonal_decay"),
    ),
    "minimax_m2": replace(PLAIN, lists={"attn_type_list": None}),
    "minimax_m3_vl_text": _typed(
        rules.same(FULL), rules.dense_below(0, None, None),
        lists={"moe_layer_freq": None, "sparse_attention_config.sparse_attention_freq": None},
    ),
    "ministral": _typed(rules.any_windows),
    "ministral3": PLAIN,
    "mistral": PLAIN,
    "mixtral": PLAIN,
    "mllama": _under("text_config", replace(PLAIN, indices={"cross_attention_layers": 0})),
    "modernbert-decoder": _typed(
        rules.first_of(3, "global_attn_every_n_layers"), periods=("global_attn_every_n_layers",),
        fixed={_FIRST: rules.first_alone},
    ),
    "moss_transcribe_diarize": _under("text_config", _WINDOWED),
    "moshi": replace(PLAIN, prefixes=("decoder.model.layers.", *_LLAMA)),
    "mpt": Family(("transformer.blocks.", "blocks."), count=("n_layers",)),
    "musicgen": Family(refused=_TEXT_TO_AUDIO),
    "musicgen_melody": Family(refused=_TEXT_TO_AUDIO),
    "mvp": _SEQ2SEQ,
    "nanochat": PLAIN,
    "nemotron": PLAIN,
    "nemotron_h": replace(
        PLAIN, lists={"layers_block_type": rules.nemotron_h_types, "hybrid_override_pattern": None},
        prefixes=("model.layers.", "backbone.layers.", "layers."),
        plain=("mtp_layers_block_type", "time_step_limit", "mamba_dt_limit"),
    ),
    "olmo": PLAIN,
    "olmo2": PLAIN,
    "olmo3": _typed(rules.last_of(4)),
    "olmo_hybrid": _typed(rules.last_of(4, rest=LINEAR)),
    "olmoe": PLAIN,
    "openai-gpt": Family(_GPT2, count=_GPT2_COUNT),
    "opt": Family(_DECODER),
    "pegasus": _SEQ2SEQ,
    "persimmon": PLAIN,
    "phi": PLAIN,
    "phi3": PLAIN,
    "phi4_multimodal": PLAIN,
    "phimoe": PLAIN,
    "plbart": _SEQ2SEQ,
    "prophetnet": Family(
        ("prophetnet.decoder.layers.", "decoder.layers."), count=("num_decoder_layers",)
    ),
    "qwen2": _WINDOWED,
    "qwen2_moe": replace(
        _MOE_STEPS, lists={"layer_types": rules.early_windows}, counts=("max_window_layers",)
    ),
    "qwen3": _WINDOWED,
    "qwen3_5": _under("text_config", _QWEN3_5),
    "qwen3_5_moe": _under("text_config", _QWEN3_5),
    "qwen3_5_moe_text": _QWEN3_5,
    "qwen3_5_text": _QWEN3_5,
    "qwen3_moe": replace(_MOE_STEPS, counts=("max_window_layers",)),
    "qwen3_next": _QWEN3_NEXT,
    "qwen4_exp": _under("text_config", _QWEN4),
    "qwen4_exp_text": _QWEN4,
    "recurrent_gemma": replace(PLAIN, cycles=("block_types",)),
    "reformer": Family(("reformer.encoder.layers.", "encoder.layers."), lists={"attn_layers": None}),
    "rembert": _encoder("rembert"),
    "roberta": _encoder("roberta"),
    "roberta-prelayernorm": _encoder("roberta_prelayernorm"),
    "roc_bert": _encoder("roc_bert"),
    "roformer": _encoder("roformer"),
    "rwkv": Family(("rwkv.blocks.", "blocks."), fixed={
        _FIRST: rules.first_alone,
        "rescale_every halves the stream by layer number (at 0 in config.json the model is the same but for rounding)":
            rules.rescaled_by("rescale_every", 6),
    }),
    "seed_oss": PLAIN,
    "smollm3": _typed(
        rules.smollm3_types, lists={"no_rope_layers": rules.no_rope}, periods=("no_rope_layer_interval",),
    ),
    "solar_open": replace(PLAIN, counts=("first_k_dense_replace",)),
    "stablelm": PLAIN,
    "starcoder2": PLAIN,
    "trocr": _SEQ2SEQ,
    "vaultgemma": _typed(rules.last_of(2)),
    "whisper": _SEQ2SEQ,
    "xglm": Family(("model.layers.", "layers."), count=("num_layers", "num_hidden_layers")),
    "xlm": Family(
        ("transformer.attentions.",), count=("n_layers",),
        beside=tuple((f"transformer.{part}.", 0) for part in ("layer_norm1", "ffns", "layer_norm2")),
    ),
    "xlm-roberta": _encoder("roberta"),
    "xlm-roberta-xl": _encoder("roberta"),
    "xlnet": Family(("transformer.layer.", "layer."), count=_GPT2_COUNT),
    "xlstm": Family(("backbone.blocks.", "blocks."), count=("num_hidden_layers", "num_blocks")),
    "xmod": _encoder("roberta"),
    "youtu": PLAIN,
    "zamba": replace(
        PLAIN, lists={"layers_block_type": rules.zamba_types}, periods=("attn_layer_period", "attn_layer_offset"),
        links={"the first hybrid layer keeps the attention block that all of them share": rules.zamba_owner},
    ),
    "zamba2": replace(
        PLAIN, lists={"layers_block_type": rules.zamba2_types}, indices={"hybrid_layer_ids": 0},
        fixed={"hybrid layers take turns at shared blocks, which hold an adapter for each": rules.zamba2_ordinal},
    ),
    "zaya": _typed(rules.same(HYBRID), fixed={_FIRST: rules.first_alone}),
}  # fmt: skip

# Fields that are lists of one entry per layer wherever they occur: transformers' base config class checks their
# lengths against the number of layers for every family.
COMMON_LISTS: dict[str, Rule | None] = {"layer_types": None, "mlp_layer_types": None}

# Fields that never speak of layers, although a list in them may by chance be as long as the model is deep.
NOT_OF_LAYERS = frozenset(
    {
        "architectures",
        "auto_map",
        "bad_words_ids",
        "begin_suppress_tokens",
        "bos_token_id",
        "eos_token_id",
        "id2label",
        "label2id",
        "pad_token_id",
        "pruned_heads",
        "quantization_config",
        "rope_parameters",
        "rope_scaling",
        "suppress_tokens",
        "task_specific_params",
        "time_step_limit",
    }
)
