"""Small random models of every family that transformers knows, for the tests of surgery.

A config class's fields are shrunk by their names (`SIZES`); what that alone does not settle stands in `SPECIAL`.
"""

import dataclasses
import json
import tempfile
from pathlib import Path
from typing import Any

import torch

LAYERS, WINDOW, LENGTH, VOCABULARY = 8, 6, 20, 97
PROMPTED = 90  # token ids below this may stand in a prompt

# Field of a config class -> its value in a small model. Sequences are longer than every window and chunk.
_SIZES = [  # encoders count as well: the caches of some decoders are as deep as they
    (VOCABULARY, "vocab_size decoder_vocab_size unpadded_vocab_size vocab_size_per_layer_input"),
    (32, "hidden_size n_embd d_model emb_dim embedding_size embedding_dim input_embedding_size"),
    (32, "output_embedding_size adapter_out_dim word_embed_proj_dim"),
    (LAYERS, "num_hidden_layers n_layer n_layers num_layers decoder_layers num_decoder_layers encoder_layers"),
    (LAYERS, "num_encoder_layers"),
    (4, "num_attention_heads n_head n_heads num_heads attention_heads encoder_attention_heads"),
    (4, "decoder_attention_heads mamba_n_heads n_mamba_heads num_encoder_attention_heads"),
    (4, "num_decoder_attention_heads mamba_num_heads num_experts num_local_experts n_routed_experts"),
    (4, "moe_num_experts"),
    (2, "num_key_value_heads num_kv_heads linear_num_key_heads linear_num_value_heads linear_num_heads"),
    (2, "n_groups num_experts_per_tok moe_topk moe_k num_experts_per_token top_k_experts mamba_expand expand"),
    (48, "intermediate_size ffn_dim encoder_ffn_dim decoder_ffn_dim moe_intermediate_size n_inner dff dim_ff"),
    (48, "d_inner shared_intermediate_size ffn_hidden_size shared_expert_intermediate_size"),
    (48, "moe_shared_expert_intermediate_size expert_ffn_hidden_size intermediate_size_mlp"),
    (48, "dense_intermediate_size prefix_dense_intermediate_size shared_experts_intermediate_size"),
    (8, "head_dim linear_key_head_dim linear_value_head_dim linear_head_dim v_head_dim qk_nope_head_dim"),
    (8, "qk_rope_head_dim kv_channels dim_head index_head_dim chunk_size mamba_chunk_size"),
    (16, "kv_lora_rank q_lora_rank mamba_d_state state_size ssm_state_size"),
    (1, "n_shared_experts num_shared_experts moe_num_shared_experts n_group topk_group num_expert_group"),
    (WINDOW, "sliding_window sliding_window_size attention_window_size window_size attention_chunk_size"),
    (WINDOW, "local_attention_window_len index_topk"),
    (128, "max_position_embeddings n_positions context_length max_seq_len n_ctx max_source_positions"),
    (128, "max_target_positions model_max_length"),
]
SIZES: dict[str, Any] = {
    **{name: size for size, names in _SIZES for name in names.split()},
    "index_n_heads": 16,  # so many that no two scores of the token picker are equal (to 0)
    "hidden_size_per_layer_input": 4,
    "local_attention": 2 * WINDOW,
    "rotary_dim": 8,
    "use_sliding_window": True,
    "max_window_layers": 3,
    "mamba_d_head": 16,
    "mamba_head_dim": 16,
    "moe_latent_size": None,
    "query_pre_attn_scalar": 8,
    "first_k_dense_replace": 3,
    "num_dense_layers": 3,
    "is_decoder": True,
    "is_encoder_decoder": False,
    "initializer_range": 0.25,
    "init_std": 0.25,
    "dropout": 0.0,
    "layerdrop": 0.0,
    "image_size": 28,
    "patch_size": 14,
    "bos_token_id": 1,
    "eos_token_id": None,
    "pad_token_id": 0,
}

_FULL, _SLIDING, _LINEAR, _CHUNKED = "full_attention", "sliding_attention", "linear_attention", "chunked_attention"
_MIXED = [_SLIDING, _FULL, _FULL, _SLIDING, _FULL, _SLIDING, _SLIDING, _FULL]  # no period, so that a shift shows
_HYBRID = [_LINEAR, _FULL, _FULL, _LINEAR, _FULL, _LINEAR, _LINEAR, _FULL]
_EXPERTS = ["dense", "sparse", "dense", "dense", "sparse", "sparse", "dense", "sparse"]
_PICKS = ["full", "full", "shared", "full", "full", "shared", "shared", "full"]
_THETA = {"rope_type": "default", "rope_theta": 10000.0}
_THETAS = [10000.0, 100.0, 500.0, 0.0, 300.0, 0.0, 700.0, 900.0]
_MOE_STEPS = {"mlp_only_layers": [3, 6], "decoder_sparse_step": 2}
_GLOBAL = {"global_head_dim": 16}
_SWA = {
    **{f"swa_{name}": 8 for name in ("head_dim", "v_head_dim")},
    **{f"swa_{name}": 16 for name in ("kv_lora_rank", "q_lora_rank")},
    **{f"swa_num_{name}_heads": 2 for name in ("attention", "key_value")},
    "swa_qk_nope_head_dim": 4,
    "swa_qk_rope_head_dim": 4,
}

SPECIAL: dict[str, dict[str, Any]] = {
    "axk1": {"mlp_layer_types": _EXPERTS},
    "axk2": {"mlp_layer_types": _EXPERTS},
    "bailing_hybrid": {"layer_group_size": 3},
    "bamba": {"attn_layer_indices": [0, 3, 7]},
    "cohere_compass_text": {"rope_parameters": {_FULL: _THETA}},
    "cwm": {"layer_types": _MIXED},
    "dbrx": {
        "attn_config": {"kv_n_heads": 2, "clip_qkv": 8, "rope_theta": 10000.0},
        "ffn_config": {"ffn_hidden_size": 48, "moe_num_experts": 4, "moe_top_k": 2},
    },
    "deepseek_v4": {"vocab_size": 97, "index_topk": 2},
    "dots3_note_text": {
        **_SWA,
        "first_k_dense_replace": 2,
        "n_group": 1,
        "layer_types": _MIXED,
    },
    "dots3_note_audio_encoder": {"adapter_input_size": 32},
    "emu3": {"vocabulary_map": {"<image>": 91, "<|extra_200|>": 92, "<|visual token 000000|>": 93}},
    "dots3_note_vision_encoder": {"adapter_in_dim": 32, "mlp_layer_types": ["dense"] * LAYERS},
    "exaone4": {"layer_types": _MIXED},
    "falcon_h1": {"mamba_d_ssm": 64, "mlp_multipliers": [0.7, 1.3], "ssm_multipliers": [0.5, 0.8, 1.0, 1.2, 0.9]},
    "glm_moe_dsa": {"indexer_types": _PICKS, "mlp_layer_types": _EXPERTS},
    "hy_v4": {"indexer_types": _PICKS, "mlp_layer_types": _EXPERTS},
    "inkling2_text": {"n_layers_per_attn_res_block": 2},
    "gemma4_text": {"hidden_size_per_layer_input": 0, "layer_types": _MIXED, **_GLOBAL},
    "gemma4_unified_text": {"layer_types": _MIXED, **_GLOBAL},
    "gemma3n_text": {
        "activation_sparsity_pattern": [0.9, 0.0, 0.5, 0.0, 0.0, 0.7, 0.0, 0.0],
        "num_kv_shared_layers": 2,
    },
    "mllama_text_model": {"cross_attention_layers": [3, 6]},
    "gpt_neo": {"attention_types": [[["global", "local", "local"], 2], [["local", "global"], 1]]},
    "gpt_oss": {"layer_types": _MIXED},
    "granitemoehybrid": {"layer_types": _HYBRID, "shared_intermediate_size": 48},
    "granite_swa": {"layer_types": _MIXED, "layer_rope_theta": _THETAS},
    "granitemoe_swa": {"layer_types": _MIXED, "layer_rope_theta": _THETAS},
    "hunyuan_v1_moe": {"moe_topk": [2, 1, 1, 2, 2, 1, 2, 1]},
    "jamba": {"attn_layer_period": 3, "attn_layer_offset": 1},
    "kimi_linear": {"layer_types": _HYBRID, "mlp_layer_types": _EXPERTS},
    "laguna": {
        "layer_types": _MIXED,
        "mlp_layer_types": _EXPERTS,
        "num_attention_heads_per_layer": [4, 2, 4, 8, 2, 4, 8, 4],
    },
    "lfm2": {"full_attn_idxs": [1, 4, 5]},
    "lfm2_moe": {"layer_types": ["conv" if kind == _LINEAR else kind for kind in _HYBRID]},
    "mamba2": {"num_heads": 4, "head_dim": 16},
    "mellum": {"layer_types": _MIXED, "mlp_layer_types": _EXPERTS},
    "minimax_m3_vl_text": {"mlp_layer_types": _EXPERTS},
    "nemotron_h": {
        "layers_block_type": [_LINEAR, _FULL, "moe", "mlp", _LINEAR, _LINEAR, "moe", _FULL],
        "num_hidden_layers": None,
    },
    "qwen2_moe": {"mlp_only_layers": [3, 6]},
    "qwen3_moe": _MOE_STEPS,
    "qwen3_next": {**_MOE_STEPS, "layer_types": _HYBRID},
    "qwen4_exp_text": {
        "indexer_n_heads": 2,
        "indexer_kv_heads": 1,
        "indexer_head_dim": 8,
        "indexer_budget": 4,
        "indexer_compress_ratio": 2,
        "hc_count": 2,
        "hc_lowrank": 8,
        "ple_layer_ids": [3, 6],
        "ple_embed_dim": 32,
        "heads_per_ngram": 2,
        "ngram_vocab_size_base": 50,
        "make_ngram_vocab_size_divisible_by": 8,
        "split_ngram_parts": 1,
        "eos_token_id": 96,
    },
    "moshi": {"audio_vocab_size": 40, "num_codebooks": 2, "head_dim": 8, "hidden_act": "silu"},
    "reformer": {
        "hidden_size": 32,
        "attention_head_size": 8,
        "feed_forward_size": 48,
        "axial_pos_embds": False,
        "attn_layers": ["local", "lsh", "lsh", "local", "lsh", "local", "local", "lsh"],
        "local_attn_chunk_length": 4,
        "lsh_attn_chunk_length": 4,
        "num_buckets": 4,
        "hash_seed": 7,
    },
    "rwkv": {"rescale_every": 0},
    "smollm3": {"no_rope_layers": [1, 0, 0, 1, 0, 1, 1, 0]},
    "llama4_text": {
        "no_rope_layers": [1, 0, 0, 1, 0, 1, 1, 0],
        "moe_layers": [1, 2, 5],
        "interleave_moe_layer_step": 2,
    },
    "xlstm": {"hidden_size": 64, "embedding_dim": 64, "qk_dim_factor": 1.0, "autocast_kernel_dtype": "float32"},
    "xmod": {"default_language": "en_XX"},
    "zamba2": {
        "layers_block_type": [_LINEAR, "hybrid", _LINEAR, _LINEAR, "hybrid", _LINEAR, _LINEAR, "hybrid"],
        "num_mem_blocks": 2,
        "use_shared_attention_adapter": True,
        "adapter_rank": 4,
        "num_key_value_heads": 4,
    },
    "zaya": {
        "num_experts_per_tok": 1,
        "layer_types": ["hybrid_sliding" if k == _SLIDING else "hybrid" for k in _MIXED],
    },
}

# (model_type of the decoder, field) -> what its small model states otherwise where its config is silent on that field,
# because what the class fills in goes with no other; None: silent too.
SILENT_WITH: dict[tuple[str, str], dict[str, Any]] = {
    ("dots3_note_text", "layer_types"): {"per_layer_config": None, **_SWA},  # heads follow the types
    ("gemma3n_text", "num_kv_shared_layers"): {  # 15 layers at the end
        "num_hidden_layers": 20,
        "layer_types": None,
        "activation_sparsity_pattern": None,
        "intermediate_size": 48,
    },
    ("gemma4_text", "layer_types"): {"per_layer_config": None, **_GLOBAL},
    ("gemma4_unified_text", "layer_types"): {"per_layer_config": None, **_GLOBAL},
    ("hunyuan_v1_moe", "num_experts"): {"moe_topk": None},  # one of one
    ("jamba", "attn_layer_offset"): {"attn_layer_period": 5},  # an offset of 4
    ("reformer", "attn_layers"): {"num_hidden_layers": 6},
    ("zamba2", "layers_block_type"): {"num_hidden_layers": 54, "hybrid_layer_ids": None},
}

# Fields that their class leaves empty, and without which no model can be built.
NEVER_SILENT = {("lfm2_moe", "layer_types")}

# Families that cannot be built from their config class alone, or not small, and why.
NOT_BUILT: dict[str, str] = {
    "gemma3n": "its vision tower needs timm, which is not installed; its text decoder is gemma3n_text"
}


def small_fields(config_class: type, special: dict[str, Any] | None = None) -> dict[str, Any]:
    """Values for the fields that a config class declares itself."""
    names = {field.name for field in dataclasses.fields(config_class)}
    fields = {name: value for name, value in SIZES.items() if name in names}
    if "kv_lora_rank" in names and "num_key_value_heads" in names:
        fields["num_key_value_heads"] = fields["num_attention_heads"]  # latent attention has no groups
    for name, part in parts_of(config_class).items():
        fields[name] = small_part(part)
    return fields | (special or {})


def parts_of(config_class: type) -> dict[str, Any]:
    """The nested configs of a class: name -> what says of which class it is."""
    if hasattr(config_class, "sub_configs_defaults"):
        return config_class.sub_configs_defaults
    if not getattr(config_class, "sub_configs", None):
        return {}
    default = config_class()  # older transformers names a class by a default alone
    return {name: type(part) for name in config_class.sub_configs if (part := getattr(default, name)) is not None}


def small_part(part: Any) -> dict[str, Any]:
    """Fields of a nested config: of a text decoder, a vision tower, ..."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    config_class = getattr(part, "config_class", part)
    model_type = getattr(part, "model_type", None) or config_class.model_type
    if model_type and (not dataclasses.is_dataclass(config_class) or "model_type" not in vars(config_class)):
        config_class = CONFIG_MAPPING[model_type]
    return small_fields(config_class, SPECIAL.get(model_type)) | ({"model_type": model_type} if model_type else {})


def own_name(model_type: str) -> str:
    """The model_type that a config of the family states; a few names of the mapping are aliases."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    return CONFIG_MAPPING[model_type].model_type


def small_config(model_type: str, **more: Any) -> Any:
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    config_class = CONFIG_MAPPING[model_type]
    return config_class(**small_fields(config_class, SPECIAL.get(model_type, {}) | more))


def small_config_without(model_type: str, section: str | None, key: str) -> Any:
    """The config of a small model whose class fills in `key`; None where it is silent on it anyway.

    Args:
        section: the key of the nested config that describes the decoder, if any.
    """
    from transformers import AutoConfig

    config = json.loads(small_config(model_type).to_json_string())
    part = config.get(section, config)
    if part.pop(key, None) is None:
        return None
    for other, value in SILENT_WITH.get((part["model_type"], key), {}).items():
        part[other] = value
        if value is None:
            del part[other]
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "config.json").write_text(json.dumps(config))
        return AutoConfig.from_pretrained(folder)


def save_small_model(model_type: str, folder: Any, config: Any = None, shard: str = "50GB", **more: Any) -> None:
    """Save a random model of a family; of a multimodal wrapper the whole, towers included."""
    from transformers import AutoModelForCausalLM, AutoModelForMultimodalLM

    torch.manual_seed(0)
    config = config or small_config(model_type, **more)
    model = AutoModelForCausalLM.from_config(config)
    if model.config.model_type != own_name(model_type):  # the causal model is but the wrapper's text decoder
        torch.manual_seed(0)
        model = AutoModelForMultimodalLM.from_config(config)
    model.save_pretrained(folder, max_shard_size=shard)
