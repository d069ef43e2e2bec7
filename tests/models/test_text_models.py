"""Text models: what they learn, that their bundles answer alike everywhere, and what they begin with."""

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import small_texts as texts
import torch
from safetensors.torch import load

from pipelines.core import spans, tokens
from pipelines.core.errors import UserError
from pipelines.core.paths import Paths
from pipelines.models.text import backbone, explain, export, pretraining, tuning
from pipelines.models.text.words import Words


def lay(folder: Path, contents: dict[str, bytes], config: dict[str, Any] | None = None) -> Path:
    from pipelines.core import files

    for name, content in {**contents, **({"config.json": files.to_json(config)} if config else {})}.items():
        files.write_bytes(folder / name, content)
    return folder


@pytest.fixture(scope="module")
def city(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With a corpus, joined data of two tasks, and a pretrained backbone."""
    root = tmp_path_factory.mktemp("city")
    rows = texts.messages(90)
    texts.write(root / "data/corpus/text/calls", rows[:72], [], "label")
    texts.write(root / "data/joined/topics", rows, texts.NAMES, "label")
    texts.write(root / "data/joined/jams", rows, ["jam"], "spans")
    made = pretraining.pretrain("text", texts.backbone(), root / "data/corpus/text", Paths(root))
    lay(root / "models/backbones/text", made.contents)
    made.forget()
    return root


def finetune(city: Path, key: str = "topics", init: Path | None = None, scratch: bool = False, **more: Any) -> Any:
    objective = {"topics": "classify", "jams": "tag"}[key]
    paths = Paths(city)
    started = None if scratch else paths.backbone("text")
    made = tuning.finetune(key, texts.task(objective, **more), paths.joined(key), started, init, paths)
    made.forget()
    return made


@pytest.fixture(scope="module")
def topics(city: Path) -> Any:
    return finetune(city)


def test_pretraining_gives_equal_bytes_and_goes_on_where_it_was(
    city: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def again() -> Any:
        return pretraining.pretrain("text", texts.backbone(), city / "data/corpus/text", Paths(tmp_path))

    first = again()
    last = sorted((tmp_path / ".cityloop/checkpoints/pretrain/text").glob("*/*.safetensors"))[-1]
    last.unlink()
    with caplog.at_level(logging.INFO):
        resumed = again()
    assert "goes on after step 3" in caplog.text
    for name, content in resumed.contents.items():
        assert content == first.contents[name] == (city / "models/backbones/text" / name).read_bytes(), name
    report = first.report
    assert report["validation"]["loss"] < report["validation"]["loss_untrained"]
    assert report["validation"]["by_source"]["calls"]["loss"] == pytest.approx(report["validation"]["loss"])


def test_topics_are_told_apart(city: Path, topics: Any) -> None:
    tokenizer, ask = tokens.load(topics.contents["tokenizer.json"]), export.session(topics.contents["model.onnx"])
    test = [r for r in texts.read_rows(city / "data/joined/topics") if r["split"] == "test"]
    found = ask(*tokens.encode(tokenizer, [r["text"] for r in test], topics.config["max_tokens"]))
    assert np.allclose(found.sum(1), 1, atol=1e-5)
    right = [texts.NAMES[i] for i in found.argmax(1)] == np.array([r["label"] for r in test])
    assert np.mean(right) >= 0.9
    assert topics.config["names"] == texts.NAMES
    assert topics.report["messages"] == 54


def test_graph_and_torch_agree_at_any_length(tmp_path: Path, topics: Any) -> None:
    lay(tmp_path, topics.contents, topics.config)
    served, ask = tuning.load(tmp_path), export.session(topics.contents["model.onnx"])
    tokenizer = tokens.load(topics.contents["tokenizer.json"])
    some = ["", "路", "人民路堵车 " * 300, "龘😀 loud music\nat night"]
    for part in (some, some[:1], some[2:3]):
        ids, mask = tokens.encode(tokenizer, part, topics.config["max_tokens"])
        with torch.no_grad():
            wanted = served(torch.from_numpy(ids), torch.from_numpy(mask)).numpy()
        assert np.abs(ask(ids, mask) - wanted).max() < 1e-4
    alone = ask(*tokens.encode(tokenizer, some[3:], topics.config["max_tokens"]))[0]
    assert ask(*tokens.encode(tokenizer, some, topics.config["max_tokens"]))[3] == pytest.approx(alone, abs=1e-4), (
        "what a message is asked with does not matter"
    )
    from safetensors.numpy import load as arrays

    golden = arrays(topics.contents["golden.safetensors"])
    assert ask(golden["input.ids"], golden["input.mask"]) == pytest.approx(golden["answer"], abs=1e-6)


def test_equal_inputs_give_equal_bundles(city: Path, topics: Any) -> None:
    again = finetune(city)
    assert again.contents == topics.contents
    assert again.config == topics.config


def test_what_each_method_trains(city: Path) -> None:
    before = load((city / "models/backbones/text/weights.safetensors").read_bytes())
    for method, more in (("head", {}), ("lora", {"freeze": 1})):
        made = finetune(city, "jams", method=method, steps=10, learning_rate=1e-2, **more)
        after = load(made.contents["weights.safetensors"])
        moved = {n for n, w in before.items() if not torch.equal(after[f"backbone.{n}"], w)}
        dictionary = {f"dictionary.{n}" for n in ("fold", "keys", "labels", "logits")}
        assert after.keys() == {*(f"backbone.{n}" for n in before), *dictionary, "head.weight", "head.bias"}
        assert made.report["trained_parameters"] < 0.1 * made.report["parameters"]
        if method == "head":
            assert moved == set()
        else:
            assert moved
            assert all("layer.0" not in n and n.endswith("weight") and "Norm" not in n for n in moved)


def test_few_labels_scratch_and_going_on(city: Path, topics: Any, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"finetune\.labels: 99 messages"):
        finetune(city, labels=99)
    few = finetune(city, scratch=True, labels=9)
    assert few.report["messages"] == 9
    assert few.config["backbone"]["sha256"] == "scratch"
    late = {**topics.config, "training": {"until": "2026-01-02T00:00:00"}}
    init = lay(tmp_path / "bundle", topics.contents, late)
    assert finetune(city, init=init).report["messages"] == 54 - 24
    with pytest.raises(UserError, match="its names are"):
        finetune(city, init=lay(tmp_path / "other", topics.contents, {**late, "names": ["a"]}))


def test_jams_are_found_where_they_are_and_explained_by_them(city: Path, tmp_path: Path) -> None:
    made = finetune(city, "jams", steps=150, learning_rate=1e-3)
    tokenizer, ask = tokens.load(made.contents["tokenizer.json"]), export.session(made.contents["model.onnx"])
    rows = [r for r in texts.read_rows(city / "data/joined/jams") if r["split"] == "test"]
    hits = wanted = 0
    for row in rows:
        found = spans.find(ask, tokenizer, row["text"], made.config["max_tokens"], ["jam"])
        true = {(s["start"], s["end"]) for s in row["spans"]}
        hits, wanted = hits + len(true & {(s["start"], s["end"]) for s in found}), wanted + len(true)
    assert wanted >= 3
    assert hits >= 0.75 * wanted
    whole = tuning.load(lay(tmp_path, made.contents, made.config)).model
    row = next(r for r in rows if r["spans"])
    ids, mask = (torch.from_numpy(a) for a in tokens.encode(tokenizer, [row["text"]], made.config["max_tokens"]))
    assert (whole.dictionary.said(ids, mask) > 0).any(), "a phrase that it knows"
    (found,) = explain.of_texts(whole, tokenizer, [row["text"]], made.config["max_tokens"])
    inside = np.zeros(len(row["text"]), bool)
    for span in row["spans"]:
        inside[span["start"] : span["end"]] = True
    assert found[inside].mean() > 3 * abs(found[~inside].mean())


def test_explanations_point_at_the_words_that_matter(topics: Any, tmp_path: Path) -> None:
    served = tuning.load(lay(tmp_path, topics.contents, topics.config))
    tokenizer, text = tokens.load(topics.contents["tokenizer.json"]), "你好，请尽快处理 please\n工地夜间噪声"
    found = explain.weights(served.model, tokenizer, text, 512, texts.NAMES.index("noise"))
    assert found.shape == (len(text),)
    assert found[text.index("工地") :].sum() > found[: text.index("工地")].sum()
    strongest = dict(explain.words_of(text, found, 4))
    assert set("工地夜间噪声") & set(strongest)
    assert explain.weights(served.model, tokenizer, "", 512, 0).shape == (0,)


def test_runs_are_counted_alike_whatever_the_padding() -> None:
    words = Words(300)
    words.learn([np.array([1, 7, 8, 9, 2]), np.array([1, 7, 2])], tokens.load(_bytes_tokenizer()))
    row = torch.tensor([[1, 7, 8, 9, 2]])
    longer = torch.cat([row, torch.zeros(1, 6, dtype=torch.int64)], 1)
    mask = torch.cat([torch.ones_like(row), torch.zeros(1, 6, dtype=torch.int64)], 1)
    assert torch.equal(words(longer, mask), words(row, torch.ones_like(row)))
    # Three tokens and one pair stand in two messages; counted in the beginning and in the whole.
    assert int((words(row, torch.ones_like(row)) > 0).sum()) == 2 * 4


def _bytes_tokenizer() -> bytes:
    from pipelines.models.text import tokenizer

    return tokenizer.train([], 0)


def test_from_a_folder(city: Path, tmp_path: Path) -> None:
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import BertConfig, BertForMaskedLM

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *sorted({c for r in texts.messages(90) for c in r["text"]})]
    made = Tokenizer(models.WordPiece({w: i for i, w in enumerate(words)}, unk_token="[UNK]"))
    made.normalizer = normalizers.BertNormalizer()
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    torch.manual_seed(5)
    config = BertConfig(vocab_size=len(words), hidden_size=32, num_hidden_layers=1, num_attention_heads=2,
                        intermediate_size=32, max_position_embeddings=96)  # fmt: skip
    model = BertForMaskedLM(config)
    model.save_pretrained(tmp_path / "theirs")
    made.save(str(tmp_path / "theirs/tokenizer.json"))
    settings = texts.backbone(**{"from": "theirs"}, pretrain={"steps": 1, "learning_rate": 1e-9})
    begun = pretraining.pretrain("text", settings, city / "data/corpus/text", Paths(tmp_path))
    begun.forget()
    held = load(begun.contents["weights.safetensors"])
    assert torch.allclose(held["encoder.embeddings.word_embeddings.weight"],
                          model.bert.embeddings.word_embeddings.weight, atol=1e-6)  # fmt: skip
    folder = lay(tmp_path / "models/backbones/text", begun.contents)
    assert backbone.load(folder).max_tokens == 96
    paths = Paths(tmp_path)
    tuned = tuning.finetune("topics", texts.task(), city / "data/joined/topics", folder, None, paths)
    tuned.forget()
    assert tuned.report["validation"]["accuracy"] > 0.5

    (tmp_path / "theirs/model.safetensors").unlink()
    torch.save(model.state_dict(), tmp_path / "theirs/pytorch_model.bin")
    with pytest.raises(UserError, match=r"backbones\.text\.from: theirs"):
        pretraining.pretrain("text", settings, city / "data/corpus/text", paths)
    with pytest.raises(UserError, match=r"backbones\.text\.from: \./nowhere"):
        pretraining.pretrain("text", texts.backbone(**{"from": "./nowhere"}), city / "data/corpus/text", paths)


def test_without_a_corpus_or_a_backbone(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="run `cityloop corpus text` first"):
        pretraining.pretrain("text", texts.backbone(), tmp_path / "corpus", Paths(tmp_path))
    with pytest.raises(UserError, match="run `cityloop pretrain text` first"):
        tuning.finetune("topics", texts.task(), tmp_path, tmp_path / "nothing", None, Paths(tmp_path))
