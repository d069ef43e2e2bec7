"""A byte-level tokenizer learnt from a city's own messages: it knows any text, and equal corpora give equal bytes.

Letters of alphabets are merged to parts of words by byte-pair encoding (Sennrich et al., 2016; of bytes as in GPT-2).
What is written without spaces, Chinese above all, is read character by character, so that a span may begin and end at
any of them; a rare one is read in bytes.
"""

from collections.abc import Iterable

SPECIAL = ("[PAD]", "[CLS]", "[SEP]", "[MASK]")
PAD, CLS, SEP, MASK = range(4)
APART = "[\u0900-\U0010ffff]"
"""All but the alphabets of Europe and the Near East."""
LEAST = 256 + len(SPECIAL)


def train(texts: Iterable[str], size: int) -> bytes:
    """A tokenizer.json of at most `size` tokens, `LEAST` at least."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(APART), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=max(size, LEAST),
        min_frequency=2,
        special_tokens=list(SPECIAL),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", CLS), ("[SEP]", SEP)]
    )
    return (tokenizer.to_str(pretty=False) + "\n").encode()
