from transformers import AutoTokenizer


def get_tokenizer(name, tokenizer_mode, **options):
    return AutoTokenizer.from_pretrained(name, **options)
