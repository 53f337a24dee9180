"""The table of families: where each keeps its layers, and which config fields speak of layers.

A family is a `model_type` of transformers. To add one, add a row; `prune/families/config.py` applies it,
`tests/prune/families/test_every_family.py` proves it, and `make families` writes it into docs/families.md.
"""

from __future__ import annotations

from dataclasses import replace

from prune.families import rules
from prune.families.family import Family

_LLAMA = ("model.layers.", "layers.", "model.language_model.layers.", "language_model.model.layers.")
_GPT2 = ("transformer.h.", "h.")
_GPT2_COUNT = ("n_layer", "num_hidden_layers")
_DECODER = ("model.decoder.layers.", "decoder.layers.")
_STATE = ("backbone.layers.", "layers.")

PLAIN = Family(_LLAMA)


def _typed(*lists: str, **more: object) -> Family:
    """A decoder named as Llama's, with `layer_types` and other lists of one entry per layer."""
    return replace(PLAIN, lists=("layer_types", *lists), **more)  # type: ignore[arg-type]


def _encoder(base: str) -> Family:
    """BERT and its kin, as decoders."""
    return Family((f"{base}.encoder.layer.", "encoder.layer."))


def _wrapping(family: Family, *prefixes: str, flat: bool = False) -> Family:
    """A multimodal wrapper around a text decoder."""
    return replace(family, section="text_config", flat=flat, prefixes=(*prefixes, *family.prefixes))


_SEQ2SEQ = Family(_DECODER, count=("decoder_layers",))
_MLP = "mlp_layer_types"
_STEPS = {"steps": rules.sparse_steps, "reads": ("decoder_sparse_step", "num_experts")}
_DENSE_FIRST = ("first_k_dense_replace", "moe_layer_freq")
_COUNTED = replace(PLAIN, counts=("first_k_dense_replace",))  # layers below that number are dense
_FIRST = "the first layer is built unlike the others, so it has to stay"
_LAST = "the last layer is built unlike the others, so it has to stay"
_OWN = "a layer computes with its own number, so layers may not move"
_KEYS = "a layer that stays attends to keys of a dropped one"
_PICKS = "a layer that stays takes over the pick of tokens of a dropped one"
_EXPERTS = "moe_layer_interval says which layers have experts"

_MOE_STEPS = replace(PLAIN, indices={"mlp_only_layers": 0}, **_STEPS)  # type: ignore[arg-type]
_GEMMA3 = _typed(periods=("sliding_window_pattern", "_sliding_window_pattern"))
_SIDE_BY_SIDE = "hidden_size_per_layer_input: one tensor holds all layers' embeddings side by side"
_PER_LAYER_INPUT = {_SIDE_BY_SIDE: rules.own_number_of("hidden_size_per_layer_input")}
_GEMMA3N = _typed(
    "activation_sparsity_pattern",
    "intermediate_size",
    fixed=_PER_LAYER_INPUT,
    reads=("hidden_size_per_layer_input",),
    tails=("num_kv_shared_layers",),
    links={_KEYS: rules.shared_keys},
)
_GEMMA4U = _typed(
    fixed={"the last layer has to attend in full": rules.last_type},
    numbered=("per_layer_config",),
    tails=("num_kv_shared_layers",),
    links={_KEYS: rules.shared_keys},
)
_GEMMA4 = replace(_GEMMA4U, fixed={**_PER_LAYER_INPUT, **_GEMMA4U.fixed}, reads=("hidden_size_per_layer_input",))
_ASSISTANT = Family(
    refused="it drafts for another model, whose keys and values its layers read, and has hardly a layer to spare"
)
_TEXT_TO_AUDIO = "an encoder-decoder, whose decoder predicts several streams of audio"
_LOOPS = "some of its layers run several times, so a layer is no single step"
_LLAMA4 = _typed(
    "no_rope_layers", indices={"moe_layers": 0}, periods=("no_rope_layer_interval",),
    strides={"interleave_moe_layer_step": "moe_layers"},
)  # fmt: skip
_QWEN3_5 = _typed(periods=("full_attention_interval",))
_QWEN3_NEXT = replace(_QWEN3_5, indices={"mlp_only_layers": 0}, **_STEPS)  # type: ignore[arg-type]
_QWEN4 = _typed(
    periods=("full_attention_interval",),
    indices={"ple_layer_ids": 1},
    fixed={"a layer with n-gram embeddings hashes with its rank among such layers": rules.ple_ordinal},
)
_WINDOWED = _typed(counts=("max_window_layers",))
_DSA = _typed(_MLP, counts=("first_k_dense_replace",))
_DOTS3 = _typed(
    _MLP, "moe_layer_freq", numbered=("per_layer_config",), counts=("first_k_dense_replace",),
    old=("moe_layer_freq", "first_k_dense_replace"),
)  # fmt: skip
_FREQUENCIES = ("hybrid_layer_pattern", "moe_layer_freq")
_MIMO = _typed(_MLP, *_FREQUENCIES, old=_FREQUENCIES)

FAMILIES: dict[str, Family] = {
    "afmoe": _typed(counts=("num_dense_layers",)),
    "apertus": PLAIN,
    "apertus1p5_text": PLAIN,
    "arcee": PLAIN,
    "aria_text": PLAIN,
    "axk1": replace(PLAIN, lists=(_MLP,), periods=_DENSE_FIRST),
    "axk2": _typed(_MLP, periods=_DENSE_FIRST),
    "bailing_hybrid": _typed(_MLP, counts=("first_k_dense_replace",)),
    "bamba": replace(PLAIN, indices={"attn_layer_indices": 0}),
    "bart": _SEQ2SEQ,
    "beam": _typed(_MLP, fixed={_OWN: rules.own_number}),
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
    "cohere2": _typed(periods=("sliding_window_pattern",)),
    "cohere2_moe": _typed(_MLP, periods=("first_k_dense_replace",)),
    "cohere_compass_text": _typed(),
    "cpmant": Family(("cpmant.encoder.layers.", "encoder.layers.")),
    "ctrl": Family(_GPT2, count=_GPT2_COUNT),
    "cwm": _typed(),
    "data2vec-text": _encoder("data2vec_text"),
    "dbrx": Family(("transformer.blocks.", "blocks."), count=("n_layers",)),
    "deepseek_v2": _COUNTED,
    "deepseek_v3": _COUNTED,
    "deepseek_v32": _DSA,
    "deepseek_v4": _typed(
        _MLP, "compress_ratios", counts=("num_hash_layers",), old=("compress_ratios", "num_hash_layers"),
    ),
    "diffllama": replace(PLAIN, fixed={_OWN: rules.own_number}),
    "doge": PLAIN,
    "dots1": _typed(counts=("max_window_layers", "first_k_dense_replace")),
    "dory": Family(refused=_LOOPS),
    "dots3_note": _wrapping(_DOTS3, flat=True),
    "dots3_note_text": _DOTS3,
    "electra": _encoder("electra"),
    "emu3": _wrapping(PLAIN, "model.text_model.layers.", "text_model.model.layers."),
    "ernie": _encoder("ernie"),
    "ernie4_5": PLAIN,
    "ernie4_5_moe": replace(
        PLAIN, counts=("moe_layer_start_index",), ends=("moe_layer_end_index",), fixed={_EXPERTS: rules.ernie_experts},
        reads=("moe_layer_interval",),
    ),
    "exaone": Family((*_LLAMA, *_GPT2), count=("num_hidden_layers", "num_layers")),
    "exaone4": _typed(),
    "exaone_moe": _typed(_MLP, counts=("first_k_dense_replace",)),
    "falcon": Family(_GPT2),
    "falcon_h1": replace(PLAIN, plain=("mlp_multipliers", "ssm_multipliers")),
    "falcon_mamba": Family(_STATE),
    "flex_olmo": PLAIN,
    "flint": _typed(indices={"mlp_only_layers": 0}, **_STEPS),
    "fuyu": _wrapping(PLAIN, flat=True),
    "gemma": PLAIN,
    "gemma2": _typed(),
    "gemma3": _wrapping(_GEMMA3),
    "gemma3_text": _GEMMA3,
    "gemma3n": _wrapping(_GEMMA3N),
    "gemma3n_text": _GEMMA3N,
    "gemma4": _wrapping(_GEMMA4),
    "gemma4_assistant": _ASSISTANT,
    "gemma4_text": _GEMMA4,
    "gemma4_unified": _wrapping(_GEMMA4U),
    "gemma4_unified_assistant": _ASSISTANT,
    "gemma4_unified_text": _GEMMA4U,
    "git": Family(("git.encoder.layer.", "encoder.layer.")),
    "glm": PLAIN,
    "glm4": PLAIN,
    "glm4_moe": _COUNTED,
    "glm4_moe_lite": replace(_COUNTED, lists=(_MLP,), old=("first_k_dense_replace",)),
    "glm_moe_dsa": replace(
        _DSA, lists=(*_DSA.lists, "indexer_types"), links={_PICKS: rules.shared_picks},
        periods=("index_topk_pattern", "index_topk_freq", "index_skip_topk_offset"),
    ),
    "got_ocr2": _wrapping(_WINDOWED),
    "gpt-sw3": Family(_GPT2, count=_GPT2_COUNT),
    "gpt2": Family(_GPT2, count=_GPT2_COUNT, transposed=True, fixed={
        "scale_attn_by_inverse_layer_idx: " + _OWN: rules.own_number_if("scale_attn_by_inverse_layer_idx"),
    }, reads=("scale_attn_by_inverse_layer_idx",)),
    "gpt_bigcode": Family(_GPT2, count=_GPT2_COUNT),
    "gpt_neo": Family(_GPT2, count=("num_layers", "num_hidden_layers"), lists=("attention_layers",),
                      old=("attention_layers",), runs=("attention_types",)),
    "gpt_neox": Family(("gpt_neox.layers.", "layers.")),
    "gpt_neox_japanese": Family(("gpt_neox_japanese.layers.", "layers."), fixed={_LAST: rules.last_alone}),
    "gpt_oss": _typed(),
    "gptj": Family(_GPT2, count=_GPT2_COUNT),
    "granite": PLAIN,
    "granite_swa": _typed("layer_rope_theta"),
    "granitemoe": PLAIN,
    "granitemoe_swa": _typed("layer_rope_theta"),
    "granitemoehybrid": _typed("layers_block_type", old=("layers_block_type",)),
    "granitemoeshared": PLAIN,
    "helium": PLAIN,
    "hrm_text": Family(refused="its two stacks of layers run in turn, several times, so a layer is no single step"),
    "hunyuan_v1_dense": PLAIN,
    "hunyuan_v1_moe": replace(
        PLAIN, lists=("num_experts", "moe_topk", "num_shared_expert"), old=("num_shared_expert",),
    ),
    "hy_v3": replace(_COUNTED, lists=(_MLP,), old=("first_k_dense_replace",)),
    "hy_v4": _typed(
        _MLP, "indexer_types", links={_PICKS: rules.shared_picks},
    ),
    "hyperclovax": PLAIN,
    "inkling2_loop_text": Family(refused=_LOOPS),
    "inkling2_text": _typed(
        prefixes=("model.llm.layers.",),
        beside=(("model.llm.attn_res.attn_queries.", 1), ("model.llm.attn_res.mlp_queries.", 0)),
        fixed={_FIRST: rules.first_alone, "residuals are kept in blocks of n_layers_per_attn_res_block layers":
               rules.blocks_of("n_layers_per_attn_res_block")},
        reads=("n_layers_per_attn_res_block",),
    ),
    "inkling_text": _typed(
        _MLP, indices={"local_layer_ids": 0}, counts=("dense_mlp_idx",), old=("local_layer_ids", "dense_mlp_idx"),
        plain=("mtp_local_layer_ids",),
    ),
    "internlm3": PLAIN,
    "iquestcoder": PLAIN,
    "jais2": PLAIN,
    "jamba": replace(PLAIN, fixed={
        "attn_layer_period says which layers attend": rules.jamba_attention,
        "expert_layer_period says which layers have experts": rules.jamba_experts,
    }, reads=("attn_layer_period", "attn_layer_offset", "expert_layer_period", "expert_layer_offset")),
    "jetmoe": PLAIN,
    "kimi_linear": _typed(
        _MLP, indices={"linear_attn_config.full_attn_layers": 1, "linear_attn_config.kda_layers": 1},
        counts=("first_k_dense_replace",),
        old=("linear_attn_config.full_attn_layers", "linear_attn_config.kda_layers", "first_k_dense_replace"),
    ),
    "kolibri1": _typed(),
    "laguna": _typed(_MLP, "num_attention_heads_per_layer"),
    "lara_mini": _typed(),
    "lfm2": _typed(indices={"full_attn_idxs": 0}, old=("full_attn_idxs",)),
    "lfm2_moe": _typed(counts=("num_dense_layers",)),
    "lfm3": _typed(),
    "llama": PLAIN,
    "llama4": _wrapping(_LLAMA4),
    "llama4_text": _LLAMA4,
    "longcat_flash": replace(PLAIN, count=("num_layers",)),
    "mamba": Family(_STATE),
    "mamba2": Family(_STATE),
    "marian": _SEQ2SEQ,
    "mbart": _SEQ2SEQ,
    "megatron-bert": _encoder("bert"),
    "mellum": _typed(_MLP, plain=("mtp_layer_types", "mtp_mlp_layer_types")),
    "mimo_v2_flash": _MIMO,
    "minicpm3": replace(PLAIN, root_depth=("scale_depth",)),
    "minimax": _typed(
        "attn_type_list", old=("attn_type_list",),
        stored=(".slope_rate", ".query_decay", ".key_decay", ".diagonal_decay"),
    ),
    "minimax_m2": replace(PLAIN, lists=("attn_type_list",), old=("attn_type_list",)),
    "minimax_m3_vl_text": _typed(
        _MLP, "moe_layer_freq", "sparse_attention_config.sparse_attention_freq",
        old=("moe_layer_freq", "sparse_attention_config.sparse_attention_freq"),
    ),
    "ministral": _typed(),
    "ministral3": PLAIN,
    "mistral": PLAIN,
    "mixtral": PLAIN,
    "mllama": _wrapping(replace(PLAIN, indices={"cross_attention_layers": 0})),
    "modernbert-decoder": _typed(
        periods=("global_attn_every_n_layers",),
        fixed={_FIRST: rules.first_alone},
    ),
    "moss_transcribe_diarize": _wrapping(_WINDOWED),
    "moshi": replace(PLAIN, prefixes=("decoder.model.layers.", *_LLAMA)),
    "mpt": Family(("transformer.blocks.", "blocks."), count=("n_layers",)),
    "musicgen": Family(refused=_TEXT_TO_AUDIO),
    "musicgen_melody": Family(refused=_TEXT_TO_AUDIO),
    "mvp": _SEQ2SEQ,
    "nanochat": PLAIN,
    "nemotron": PLAIN,
    "nemotron_h": replace(
        PLAIN, lists=("layers_block_type", "hybrid_override_pattern"), old=("hybrid_override_pattern",),
        prefixes=("model.layers.", "backbone.layers.", "layers."),
        plain=("mtp_layers_block_type", "time_step_limit", "mamba_dt_limit"),
    ),
    "olmo": PLAIN,
    "olmo2": PLAIN,
    "olmo3": _typed(),
    "olmo_hybrid": _typed(),
    "olmoe": PLAIN,
    "openai-gpt": Family(_GPT2, count=_GPT2_COUNT, transposed=True),
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
        _MOE_STEPS, lists=("layer_types",), counts=("max_window_layers",)
    ),
    "qwen3": _WINDOWED,
    "qwen3_5": _wrapping(_QWEN3_5),
    "qwen3_5_moe": _wrapping(_QWEN3_5),
    "qwen3_5_moe_text": _QWEN3_5,
    "qwen3_5_text": _QWEN3_5,
    "qwen3_moe": replace(_MOE_STEPS, counts=("max_window_layers",), old=("max_window_layers",)),
    "qwen3_next": _QWEN3_NEXT,
    "qwen4_exp": _wrapping(_QWEN4),
    "qwen4_exp_text": _QWEN4,
    "recurrent_gemma": replace(PLAIN, cycles=("block_types",)),
    "reformer": Family(("reformer.encoder.layers.", "encoder.layers."), lists=("attn_layers",)),
    "rembert": _encoder("rembert"),
    "roberta": _encoder("roberta"),
    "roberta-prelayernorm": _encoder("roberta_prelayernorm"),
    "roc_bert": _encoder("roc_bert"),
    "roformer": _encoder("roformer"),
    "rwkv": Family(("rwkv.blocks.", "blocks."), fixed={
        _FIRST: rules.first_alone,
        "rescale_every halves the stream by layer number (at 0 in config.json the model is the same but for rounding)":
            rules.rescaled_by("rescale_every"),
    }, reads=("rescale_every",)),
    "sarvam_mla": _COUNTED,
    "sarvam_moe": _COUNTED,
    "seed_oss": PLAIN,
    "smollm3": _typed("no_rope_layers", periods=("no_rope_layer_interval",)),
    "solar_open": replace(_COUNTED, old=("first_k_dense_replace",)),
    "stablelm": PLAIN,
    "starcoder2": PLAIN,
    "trocr": _SEQ2SEQ,
    "vaultgemma": _typed(),
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
        PLAIN, lists=("layers_block_type",), periods=("attn_layer_period", "attn_layer_offset"),
        links={"the first hybrid layer keeps the attention block that all of them share": rules.zamba_owner},
    ),
    "zamba2": replace(
        PLAIN, lists=("layers_block_type",), indices={"hybrid_layer_ids": 0}, old=("hybrid_layer_ids",),
        fixed={"hybrid layers take turns at shared blocks, which hold an adapter for each": rules.zamba2_ordinal},
    ),
    "zaya": _typed(fixed={_FIRST: rules.first_alone}),
}  # fmt: skip

# Fields that are lists of one entry per layer wherever they occur: transformers' base config class checks their
# lengths against the number of layers for every family.
COMMON_LISTS = ("layer_types", "mlp_layer_types")

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


def is_transposed(model_type: object) -> bool:
    """Whether models of a family store their projections (in, out); not so where the family is unknown."""
    return isinstance(model_type, str) and model_type in FAMILIES and FAMILIES[model_type].transposed
