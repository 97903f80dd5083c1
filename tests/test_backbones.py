from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import huggingface_hub.constants
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    T5Config,
)
from transformers.utils import logging as transformers_logging

from hycam import backbones
from hycam.cli.main import main
from hycam.embedded import EmbeddedBackbone
from hycam.errors import HycamError
from pickles import plant


@pytest.fixture(autouse=True)
def _no_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    """An unreachable hub, without the half minute of trying again."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A whole backbone as `save_pretrained` writes it, with a tokenizer that has no padding token."""
    path = tmp_path / "backbone"
    config = LlamaConfig(
        vocab_size=64,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
    )
    LlamaForCausalLM(config).save_pretrained(path)
    save_tokenizer(path, eos_token="</s>")
    return path


def save_tokenizer(path: Path, **special: str) -> None:
    vocabulary = {"<s>": 0, "</s>": 1, "<unk>": 2, "word": 3}
    raw = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    PreTrainedTokenizerFast(tokenizer_object=raw, **special).save_pretrained(path)


def test_a_folder_gives_its_weights_in_the_wanted_type_and_in_evaluation_mode(folder: Path) -> None:
    saved = load_file(folder / "model.safetensors")
    for dtype in (torch.float32, torch.bfloat16):
        model = backbones.load(folder, dtype=dtype)
        assert not model.training
        for name, value in saved.items():
            assert torch.equal(model.state_dict()[name], value.to(dtype))


def test_a_path_may_be_text_and_relative_and_begin_at_home(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder.parent)
    monkeypatch.setenv("HOME", str(folder.parent))
    for spelling in ("backbone", "./backbone", "~/backbone", str(folder)):
        assert backbones.load(spelling).config.hidden_size == 16
        assert backbones.config(spelling).hidden_size == 16


def test_a_tokenizer_pads_with_its_own_padding_or_else_its_end_token_which_it_needs(folder: Path) -> None:
    assert (backbones.load_tokenizer(folder).pad_token, backbones.load_tokenizer(folder).pad_token_id) == ("</s>", 1)
    save_tokenizer(folder, eos_token="</s>", pad_token="<unk>")
    assert backbones.load_tokenizer(folder).pad_token == "<unk>"
    save_tokenizer(folder)
    with pytest.raises(HycamError, match=f"The tokenizer of {folder} has no end token"):
        backbones.load_tokenizer(folder)


def test_a_folder_without_a_tokenizer_is_refused(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer_config.json").unlink()
    with pytest.raises(HycamError, match=f"{folder}"):
        backbones.load_tokenizer(folder)


def test_a_tokenizer_made_of_nothing_but_special_tokens_is_refused(tmp_path: Path) -> None:
    config = GPT2Config(vocab_size=8, n_embd=8, n_layer=1, n_head=1, bos_token_id=0, eos_token_id=0)
    GPT2LMHeadModel(config).save_pretrained(tmp_path)  # for which transformers makes a tokenizer out of no file at all
    with pytest.raises(HycamError, match="holds no tokenizer"):
        backbones.load_tokenizer(tmp_path)


@pytest.mark.parametrize("ask", [backbones.load, backbones.load_tokenizer, backbones.config])
class TestEveryQuestionRefuses:
    def test_a_misspelt_short_name_with_the_nearest(self, ask) -> None:
        with pytest.raises(HycamError, match=r'called "smolm2-135M"\. Did you mean "smollm2-135m"\?.*owner/name'):
            ask("smolm2-135M")

    def test_a_path_that_is_not_there(self, ask, tmp_path: Path) -> None:
        with pytest.raises(HycamError, match=f"There is no folder {tmp_path}/nowhere"):
            ask(tmp_path / "nowhere")

    def test_a_file(self, ask, tmp_path: Path) -> None:
        (tmp_path / "model.bin").touch()
        with pytest.raises(HycamError, match=r"model\.bin is a file"):
            ask(tmp_path / "model.bin")

    def test_a_folder_without_a_model(self, ask, tmp_path: Path) -> None:
        with pytest.raises(HycamError, match=r"is not a backbone: it has no config\.json"):
            ask(tmp_path)

    def test_an_adapter(self, ask, folder: Path) -> None:
        (folder / "adapter_config.json").write_text("{}")
        with pytest.raises(HycamError, match="holds an adapter, not a backbone"):
            ask(folder)

    def test_a_hub_that_cannot_be_reached(self, ask) -> None:
        with pytest.raises(HycamError, match=r"nobody/nothing cannot be read: .*network.*HF_HUB_OFFLINE"):
            ask("nobody/nothing")

    def test_a_name_that_no_hub_could_have(self, ask) -> None:
        with pytest.raises(HycamError, match="two words/nothing cannot be read"):
            ask("two words/nothing")


@pytest.mark.parametrize(
    ("written", "told"),
    [
        ('{"model_type": ', "not a valid JSON"),
        ("{}", "model_type"),
        ('{"model_type": "lama"}', "`lama`"),
        (json.dumps({"auto_map": {"AutoConfig": "own.Code", "AutoModelForCausalLM": "own.Code"}}), "trust_remote_code"),
        (json.dumps(T5Config().to_dict()), "AutoModelForCausalLM"),
    ],
)
def test_a_configuration_of_no_known_causal_model_is_refused(folder: Path, written: str, told: str) -> None:
    (folder / "config.json").write_text(written)
    (folder / "own.py").write_text("raise SystemExit('code out of a model folder was run')")
    with pytest.raises(HycamError, match=f"{folder} cannot be read: .*{told}"):
        backbones.load(folder)


def test_weights_that_are_damaged_or_of_another_size_are_refused(folder: Path) -> None:
    settings = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**settings, "vocab_size": 65}))
    with pytest.raises(HycamError, match=f"{folder} cannot be read: "):
        backbones.load(folder)
    (folder / "config.json").write_text(json.dumps(settings))
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[:-10])
    with pytest.raises(HycamError, match=f"{folder} cannot be read: "):
        backbones.load(folder)


def test_weights_that_lack_a_part_are_refused_and_not_drawn_at_random(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    del weights["lm_head.weight"], weights["model.norm.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(HycamError, match=r"weights lack lm_head\.weight and 1 more"):
        backbones.load(folder)


def test_the_configuration_of_a_short_name_needs_no_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(EmbeddedBackbone, "folder", lambda self: pytest.fail("unpacked"))
    first = backbones.config("smollm2-135m")
    assert (first.hidden_size, first.num_hidden_layers, first.vocab_size) == (576, 30, 49152)
    first.hidden_size = 1
    assert backbones.config("smollm2-135m").hidden_size == 576


@pytest.mark.parametrize("terminal", [True, False])
def test_loading_bars_are_for_terminals_and_the_setting_is_put_back(
    terminal: bool, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = []
    load_weights = backbones.AutoModelForCausalLM.from_pretrained

    def spy(*args, **kwargs):
        shown.append(transformers_logging.is_progress_bar_enabled())
        return load_weights(*args, **kwargs)

    monkeypatch.setattr(backbones.AutoModelForCausalLM, "from_pretrained", spy)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal, raising=False)
    transformers_logging.enable_progress_bar()
    backbones.load(folder)
    assert shown == [terminal]
    assert transformers_logging.is_progress_bar_enabled()


@pytest.fixture
def own_code(backbone: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A backbone whose model and tokenizer are classes of its own; its code makes the file `mark` when it is run."""
    # Transformers copies such code into its cache and imports it from there.
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.syspath_prepend(str(tmp_path / "modules"))
    folder = tmp_path / f"own_code_{tmp_path.name}"  # imported by this name, once in a process
    shutil.copytree(backbone, folder)
    (folder / "own_model.py").write_text(
        "from pathlib import Path\n"
        "from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast\n"
        f"Path({str(tmp_path / 'mark')!r}).touch()\n"
        "class OwnConfig(LlamaConfig):\n    model_type = 'own_model'\n"
        "class OwnModel(LlamaForCausalLM):\n    config_class = OwnConfig\n"
        "class OwnTokenizer(PreTrainedTokenizerFast):\n    pass\n"
    )
    change_json(
        folder / "config.json", model_type="own_model", architectures=["OwnModel"],
        auto_map={"AutoConfig": "own_model.OwnConfig", "AutoModelForCausalLM": "own_model.OwnModel"},
    )  # fmt: skip
    return folder


def change_json(path: Path, **fields: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def with_own_tokenizer(folder: Path) -> Path:
    auto_map = {"AutoTokenizer": ["own_model.OwnTokenizer", "own_model.OwnTokenizer"]}
    change_json(folder / "tokenizer_config.json", tokenizer_class="OwnTokenizer", auto_map=auto_map)
    return folder


class TestCodeOfItsOwn:
    @pytest.mark.parametrize("ask", [backbones.config, backbones.load, backbones.load_tokenizer])
    def test_is_not_run_unless_the_caller_says_so(self, ask, own_code: Path, tmp_path: Path) -> None:
        with_own_tokenizer(own_code)
        with pytest.raises(HycamError, match=r"needs code of its own .*trust_remote_code: true in the recipe"):
            ask(own_code)
        assert not (tmp_path / "mark").exists()

    def test_is_run_where_the_caller_says_so(self, own_code: Path, tmp_path: Path) -> None:
        model = backbones.load(own_code, trust_remote_code=True)
        assert type(model).__name__ == "OwnModel"
        assert (tmp_path / "mark").exists()
        assert backbones.config(own_code, trust_remote_code=True).model_type == "own_model"

    def test_of_a_tokenizer_alone_is_not_run_either(self, backbone: str, own_code: Path, tmp_path: Path) -> None:
        with_own_tokenizer(own_code)
        shutil.copy(Path(backbone) / "config.json", own_code)
        with pytest.raises(HycamError, match=r"needs code of its own"):
            backbones.load_tokenizer(own_code)
        assert not (tmp_path / "mark").exists()
        assert type(backbones.load_tokenizer(own_code, trust_remote_code=True)).__name__ == "OwnTokenizer"

    def test_is_left_alone_where_transformers_knows_the_type(self, own_code: Path, tmp_path: Path) -> None:
        change_json(own_code / "config.json", model_type="llama")
        assert type(backbones.load(own_code)).__name__ == "LlamaForCausalLM"
        assert not (tmp_path / "mark").exists()

    @pytest.mark.parametrize(
        ("field", "value"),
        [
            ("attn_implementation", "owner/kernels"),
            ("_attn_implementation", "paged|owner/kernels:fast"),
            ("experts_implementation", {"": "owner/kernels"}),
        ],
    )
    def test_is_not_fetched_as_kernels_that_a_configuration_names(self, folder: Path, field: str, value) -> None:
        change_json(folder / "config.json", **{field: value})
        with pytest.raises(HycamError, match=rf"takes its {field} from .*owner/kernels.*trust_remote_code"):
            backbones.load(folder)

    def test_runs_in_the_verbs_only_where_the_recipe_says_so(
        self, own_code: Path, tasks: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        recipe = tmp_path / "recipe.yaml"
        settings = {"backbone": str(own_code), "output": str(tmp_path / "run"), "data": {"tasks": tasks},
                    "method": {"config": {"r": 2}}, "training": {"max_steps": 1, "device": "cpu"}}  # fmt: skip
        recipe.write_text(yaml.safe_dump(settings))
        assert main(["train", str(recipe)]) == 1
        assert "trust_remote_code: true in the recipe" in capsys.readouterr().err
        assert not (tmp_path / "mark").exists()
        assert main(["train", str(recipe), "--trust_remote_code", "true"]) == 0
        assert yaml.safe_load((tmp_path / "run" / "recipe.yaml").read_text())["trust_remote_code"] is True
        assert (tmp_path / "mark").exists()
        assert main(["generate", str(tmp_path / "run"), "Hello", "--max_new_tokens", "2"]) == 0
        (tmp_path / "mark").unlink()
        settings = yaml.safe_load((tmp_path / "run" / "recipe.yaml").read_text())
        (tmp_path / "run" / "recipe.yaml").write_text(yaml.safe_dump({**settings, "trust_remote_code": False}))
        for verb in (["evaluate"], ["generate", "Hello"], ["inspect"]):
            assert main([verb[0], str(tmp_path / "run"), *verb[1:]]) == 1
        assert not (tmp_path / "mark").exists()


def test_an_index_cannot_lead_to_pickled_weights(folder: Path, tmp_path: Path) -> None:
    whole = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    save_file(whole, folder / "model-00001-of-00002.safetensors", metadata={"format": "pt"})
    plant(folder / "model-00002-of-00002.bin", tmp_path / "mark")
    names = dict.fromkeys(whole, "model-00002-of-00002.bin")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": names}))
    with pytest.raises(HycamError):
        backbones.load(folder)
    assert not (tmp_path / "mark").exists()


@pytest.mark.parametrize("verb", ["train", "evaluate", "generate", "inspect"])
def test_pickled_weights_are_refused_in_every_verb_and_not_run(
    verb: str, backbone: str, tasks: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pickled = tmp_path / "pickled"
    shutil.copytree(backbone, pickled)
    (pickled / "model.safetensors").unlink()
    plant(pickled / "pytorch_model.bin", tmp_path / "mark")
    settings = {"backbone": str(pickled), "output": str(tmp_path / "run"), "data": {"tasks": tasks},
                "method": {"name": "base"}, "training": {"device": "cpu"}}  # fmt: skip
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "recipe.yaml").write_text(yaml.safe_dump(settings))
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump({**settings, "method": {"name": "lora"}}))
    words = {"train": [str(tmp_path / "recipe.yaml")], "generate": [str(tmp_path / "run"), "Hello"]}
    assert main([verb, *words.get(verb, [str(tmp_path / "run")])]) == 1
    said = capsys.readouterr().err
    assert "pytorch_model.bin, which is a pickle" in said and "Traceback" not in said
    assert not (tmp_path / "mark").exists()
