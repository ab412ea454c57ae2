"""The composition root: a recipe becomes dialogues, a model and a trainer, or one clear refusal."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from small_run import save_base, talks, write_talks
from sptune import build
from sptune.config import Recipe, RerankSection, parse_recipe
from sptune.data.dialogue import Dialogue, Turn
from sptune.data.truncation import count_truncation
from sptune.errors import AdapterError, DataError, ModelError, RecipeError, UsageError
from sptune.evaluation.candidate_replies import Reranking
from sptune.evaluation.rerank import RerankWeights
from sptune.model.backbone import Backbone
from sptune.model.load import LoadedBase
from sptune.model.prompts import SoftPrompts
from sptune.model.retriever import Reading
from sptune.run_data import load_data
from sptune.text import PAPER_STOPS
from tiny import EOS, PAD, byte_level_tokenizer, tiny_llama

SMALL = {"prompts": {"count": 3, "length": 4}, "template": {"max_length": 200, "reserve": 20}}


def recipe_of(*overrides: str, **sections: Any) -> Recipe:
    return parse_recipe({**SMALL, **sections}, overrides)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return write_talks(tmp_path / "talks.jsonl", talks(10))


# Dialogues.


def test_each_part_comes_from_its_file_and_range(file: Path, tmp_path: Path):
    other = write_talks(tmp_path / "other.jsonl", talks(5, seed=1))
    data = load_data(
        recipe_of(f"data.path={file}", "data.train=1:6", "data.validation=7:8", f"evaluation.path={other}")
    )
    ids = [[talk.id.removeprefix("talk-") for talk in part] for part in (data.train, data.validation, data.test)]
    assert ids == [[f"0-{n}" for n in range(6)], ["0-6", "0-7"], [f"1-{n}" for n in range(5)]]


def test_what_is_not_asked_for_is_empty(file: Path):
    data = load_data(recipe_of(f"data.path={file}"))
    assert (len(data.train), data.validation, data.test) == (10, [], [])


def test_validation_may_be_a_file_of_its_own(file: Path, tmp_path: Path):
    other = write_talks(tmp_path / "other.jsonl", talks(5, seed=1))
    data = load_data(recipe_of(f"data.path={file}", f"data.validation_path={other}"))
    assert len(data.validation) == 5
    data = load_data(recipe_of(f"data.path={file}", f"data.validation_path={other}", "data.validation=2:3"))
    assert [talk.id for talk in data.validation] == ["talk-1-1", "talk-1-2"]


def test_the_test_part_can_be_limited(file: Path):
    data = load_data(recipe_of(f"data.path={file}", "data.train=1:5", "evaluation.split=6:10", "evaluation.limit=2"))
    assert [talk.id for talk in data.test] == ["talk-0-5", "talk-0-6"]


@pytest.mark.parametrize(
    ("overrides", "wanted"),
    [
        (["data.train=1:6", "data.validation=6:8"], "data.validation: 1 of its dialogues are also trained on"),
        (["data.validation=9:10"], "data.validation: 2 of its dialogues"),
        (["data.train=1:6", "evaluation.split=5:7"], "evaluation.split: 2 of its dialogues"),
        (["data.train=1:6", "data.validation_path=copy.jsonl"], "data.validation: 6 of its dialogues"),
        (["data.train=1:6", "evaluation.path=copy.jsonl"], "evaluation.split: 6 of its dialogues"),
    ],
)
def test_what_is_trained_on_is_not_tested_on(
    file: Path, monkeypatch: pytest.MonkeyPatch, overrides: list[str], wanted: str
):
    """Also where the same words stand in another file, at other lines and under other ids."""
    monkeypatch.chdir(file.parent)
    copies = [replace(talk, id=f"x{n}") for n, talk in enumerate(reversed(talks(10)))]
    write_talks(file.parent / "copy.jsonl", copies)
    with pytest.raises(DataError) as caught:
        load_data(recipe_of(f"data.path={file}", *overrides))
    assert wanted in str(caught.value)
    assert "data.train" in str(caught.value)


def test_test_dialogues_that_choose_are_told(file: Path):
    """It may be meant: what is to be chosen is chosen by figures of validation dialogues."""
    ranges = ["data.train=1:5", "data.validation=6:8"]
    assert load_data(recipe_of(f"data.path={file}", *ranges, "evaluation.split=9:10")).note is None
    told = load_data(recipe_of(f"data.path={file}", *ranges, "evaluation.split=7:10")).note
    assert told
    assert "2 of the 4 test dialogues also choose" in told


def test_a_dialogue_that_is_twice_in_the_file_is_found_too(tmp_path: Path):
    """Once among the training dialogues and once, with candidates, among those to validate on."""
    first, *others = talks(6)
    answer = str(first.turns[0].response)
    again = replace(first, id="again", turns=(replace(first.turns[0], candidates=("no", answer)), *first.turns[1:]))
    file = write_talks(tmp_path / "talks.jsonl", [first, *others, again])
    with pytest.raises(DataError, match=r"data\.validation: 1 of its dialogues are also trained on"):
        load_data(recipe_of(f"data.path={file}", "data.train=1:6", "data.validation=7:7"))


def test_one_persona_in_two_dialogues_is_no_overlap(tmp_path: Path):
    one, two = talks(2)
    file = write_talks(tmp_path / "talks.jsonl", [one, replace(two, persona=one.persona)])
    assert load_data(recipe_of(f"data.path={file}", "data.train=1:1", "data.validation=2:2")).validation


def test_a_range_past_the_end_names_the_file(file: Path):
    with pytest.raises((DataError, UsageError), match=r"1:11.*goes past the end.*10 dialogues"):
        load_data(recipe_of(f"data.path={file}", "data.train=1:11"))


# The model.


def text_of(init: str, text: str) -> list[str]:
    return [f"prompts.text={text}"] if init == "text" else []


@pytest.mark.parametrize("init", ["vocabulary", "kmeans", "random", "text"])
def test_prompts_are_as_asked_for_reproducible_and_different(tiny_base: LoadedBase, init: str):
    def make(seed: int) -> torch.Tensor:
        recipe = recipe_of(f"prompts.init={init}", *text_of(init, "mend the nets"), f"seed={seed}")
        return build.make_model(recipe, base=tiny_base).prompts.embeddings.detach()

    prompts = make(0)
    assert prompts.shape == (3, 4, 32)
    assert torch.equal(prompts, make(0))
    assert not torch.equal(prompts, make(1))
    assert all(not torch.equal(prompts[i], prompts[j]) for i in range(3) for j in range(i))


@pytest.mark.parametrize(("encoder", "networks"), [("separate", 3), ("shared", 1)])
def test_prompts_may_come_from_a_network(tiny_base: LoadedBase, encoder: str, networks: int):
    def make(seed: int) -> SoftPrompts:
        recipe = recipe_of(f"prompts.encoder={encoder}", "prompts.encoder_hidden=5", f"seed={seed}")
        return build.make_model(recipe, base=tiny_base).prompts

    prompts = make(0)
    assert (prompts.count, prompts.length, prompts.embeddings.shape) == (3, 4, (3, 4, 32))
    network = (32 * 5 + 5) + (5 * 5 + 5) + (5 * 32 + 32)
    assert sum(p.numel() for p in prompts.parameters()) == 3 * 4 * 32 + networks * network
    assert torch.equal(prompts.embeddings, make(0).embeddings)
    assert not torch.equal(prompts.embeddings, make(1).embeddings)


@pytest.mark.parametrize("init", ["vocabulary", "kmeans", "random", "text"])
def test_more_virtual_tokens_than_the_vocabulary_has(tiny_base: LoadedBase, init: str):
    """K x L = 640 > 420: rows come more than once, the prompts still differ."""
    recipe = recipe_of(f"prompts.init={init}", *text_of(init, "nets"), "prompts.count=16", "prompts.length=40")
    assert len(tiny_base.tokenizer) < 16 * 40
    prompts = build.make_model(recipe, base=tiny_base).prompts.embeddings.detach()
    assert len({tuple(prompt.flatten().tolist()) for prompt in prompts}) == 16


def test_a_model_is_made_without_touching_the_global_generator(tiny_base: LoadedBase):
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first = build.make_model(recipe_of(), base=tiny_base)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(6)
    second = build.make_model(recipe_of(), base=tiny_base)
    ours, theirs = first.retriever.state_dict(), second.retriever.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.parametrize("kind", ["linear", "mlp", "transformer", "identity"])
def test_the_retriever_is_as_asked_for(tiny_base: LoadedBase, kind: str):
    model = build.make_model(recipe_of(f"retriever.kind={kind}", "retriever.activation=relu"), base=tiny_base)
    assert (model.retriever.kind, model.retriever.activation) == (kind, "relu")
    assert model.scores([talks(1)[0].context(0)]).shape == (1, 3)


@pytest.mark.parametrize(
    ("overrides", "reading", "keys"),
    [
        ([], Reading(), None),
        (["retriever.input=recent", "retriever.half_life=3", "retriever.whiten=6"], Reading("recent", 3, 6), None),
        (["retriever.input=hidden", "retriever.keys=clusters"], Reading("hidden"), 3),
        (["retriever.keys=random", "retriever.activation=none"], Reading(), 3),
    ],
)
def test_the_retriever_reads_and_compares_as_asked_for(
    tiny_base: LoadedBase, overrides: list[str], reading: Reading, keys: int | None
):
    recipe = recipe_of(*overrides)
    model = build.make_model(recipe, base=tiny_base)
    assert model.retriever.reading == reading
    assert (None if model.retriever.keys is None else len(model.retriever.keys)) == keys
    assert model.scores([talks(1)[0].context(0)]).shape == (1, 3)
    again = build.make_model(recipe, base=tiny_base)
    other = build.make_model(recipe_of(*overrides, "seed=1"), base=tiny_base)
    for name, tensor in model.retriever.named_parameters():
        assert torch.equal(tensor, again.retriever.get_parameter(name)), name
        assert not torch.equal(tensor, other.retriever.get_parameter(name)), name


def test_more_components_than_what_is_read_has_are_refused(tiny_base: LoadedBase):
    with pytest.raises(RecipeError, match=r"retriever\.whiten: 33 exceeds the width of what is read, 32; set it to 32"):
        build.make_model(recipe_of("retriever.whiten=33"), base=tiny_base)


def test_the_retriever_can_be_narrower(tiny_base: LoadedBase):
    assert build.make_model(recipe_of("retriever.hidden=7"), base=tiny_base).retriever.hidden == 7


def test_prompts_of_another_adapter(tiny_base: LoadedBase, tmp_path: Path):
    earlier = build.make_model(recipe_of("seed=9"), base=tiny_base)
    earlier.save_pretrained(tmp_path / "adapter")
    source = ["prompts.init=file", f"prompts.file={tmp_path / 'adapter'}"]
    model = build.make_model(recipe_of(*source), base=tiny_base)
    assert torch.equal(model.prompts.embeddings, earlier.prompts.embeddings)
    with pytest.raises(RecipeError, match=r"holds 3 prompts of 4 tokens .*set prompts\.count=3 and prompts\.length=4"):
        build.make_model(recipe_of(*source, "prompts.count=2"), base=tiny_base)
    with pytest.raises(AdapterError, match="no such adapter folder"):
        build.make_model(recipe_of("prompts.init=file", "prompts.file=nowhere"), base=tiny_base)


def test_equal_prompts_of_another_adapter_are_parted(tiny_base: LoadedBase, tmp_path: Path):
    """As a checkpoint of the shared part of training has them."""
    earlier = build.make_model(recipe_of(), base=tiny_base)
    with torch.no_grad():
        earlier.prompts.embeddings[1:] = earlier.prompts.embeddings[0]
    earlier.save_pretrained(tmp_path / "adapter")
    recipe = recipe_of("prompts.init=file", f"prompts.file={tmp_path / 'adapter'}")
    prompts = build.make_model(recipe, base=tiny_base).prompts.embeddings
    assert torch.equal(prompts[0], earlier.prompts.embeddings[0])
    assert len({tuple(prompt.flatten().tolist()) for prompt in prompts}) == 3
    assert torch.equal(prompts, build.make_model(recipe, base=tiny_base).prompts.embeddings), "the same each time"


def test_the_bare_model_is_the_base_without_virtual_tokens(tiny_base: LoadedBase):
    """Its log-probabilities are those of the base model on the tokens alone."""
    model = build.make_bare_model(recipe_of("data.path=x"), base=tiny_base)
    assert (model.prompts.count, model.prompts.length) == (1, 0)
    assert model.encoder.context_budget == 200 - 20
    assert not list(model.retriever.parameters())
    from sptune.data.batch import collate

    (sequence,) = model.encoder.encode(talks(1, turns=1)[0])
    batch = collate([sequence], stop_id=model.encoder.stop_id)
    with torch.no_grad():
        logprobs = tiny_base.backbone.model(batch.input_ids).logits.log_softmax(-1)
        expected = logprobs[0, batch.target_position].gather(1, batch.target_ids[:, None])[:, 0]
        torch.testing.assert_close(model(batch).target_logprobs[0], expected)


# The template.


def test_the_encoder_has_the_recipes_numbers(tiny_base: LoadedBase):
    encoder = build.make_encoder(recipe_of("template.learn_stop=false"), tiny_base)
    assert (encoder.max_length, encoder.reserve, encoder.prompt_length, encoder.stop_id) == (200, 20, 4, None)
    assert build.make_encoder(recipe_of(), tiny_base).stop_id == tiny_base.tokenizer.eos_token_id


def test_a_max_length_beyond_the_window_is_refused_with_the_window(tiny_base: LoadedBase):
    with pytest.raises(
        RecipeError, match=r"template\.max_length: 1025 exceeds the window .* 1024 .*set it to 1024 or less"
    ):
        build.make_encoder(recipe_of("template.max_length=1025"), tiny_base)
    assert build.make_encoder(recipe_of("template.max_length=1024"), tiny_base).max_length == 1024


def test_stops(tiny_base: LoadedBase):
    assert build.stops(recipe_of()) == PAPER_STOPS
    assert build.stops(recipe_of("template.kind=chat")) == ()
    assert build.stops(recipe_of("template.stops=[END]")) == ("END",)
    assert build.stops(recipe_of("template.stops=[]")) == ()
    assert build.make_model(recipe_of("template.stops=[END]"), base=tiny_base).stops == ("END",)


def test_templates(tiny_base: LoadedBase, tmp_path: Path):
    (tmp_path / "t.jinja").write_text("{{ turns[-1].user }} =>")
    recipe = recipe_of("template.kind=jinja", f"template.file={tmp_path / 't.jinja'}")
    assert build.make_template_of(recipe, tiny_base).context((), (Turn("hi"),)) == "hi =>"
    assert build.make_template_of(recipe_of("template.kind=chat"), tiny_base).kind == "chat"
    with pytest.raises(RecipeError, match=r"template\.file: cannot read"):
        build.make_template_of(recipe_of("template.kind=jinja", "template.file=nowhere.jinja"), tiny_base)


def test_a_base_without_chat_template_or_eos():
    tokenizer = byte_level_tokenizer(special=(EOS, PAD))
    base = LoadedBase(Backbone(tiny_llama(len(tokenizer)), base="bare"), tokenizer)
    with pytest.raises(ModelError, match=r"template\.kind=chat: this base model has no chat template"):
        build.make_model(recipe_of("template.kind=chat"), base=base)
    with pytest.raises(ModelError, match=r"no end-of-sequence token.*template\.learn_stop=false"):
        build.make_model(recipe_of(), base=base)
    assert build.make_model(recipe_of("template.learn_stop=false"), base=base).encoder.stop_id is None


def test_decoding():
    found = build.decoding(
        recipe_of("evaluation.max_new_tokens=7", "evaluation.num_beams=3", "evaluation.no_repeat_ngram_size=4")
    )
    assert (found.max_new_tokens, found.num_beams, found.no_repeat_ngram_size) == (7, 3, 4)
    assert (found.kind, build.reranking(recipe_of())) == ("top1", None)


def test_who_speaks():
    gated = build.decoding(recipe_of("evaluation.decoding=gated", "evaluation.no_repeat_history_ngram=3"))
    assert (gated.kind, gated.gate_temperature, gated.no_repeat_history_ngram) == ("gated", 0.1, 3)
    assert build.decoding(recipe_of("losses.gate_temperature=0.4")).gate_temperature == 0.4
    own = recipe_of("losses.gate_temperature=0.4", "evaluation.gate_temperature=0.3")
    assert build.decoding(own).gate_temperature == 0.3


def test_candidates_and_weights_are_as_asked_for():
    values = {"candidates": 5, "source": "fused", "top_p": 0.8, "likelihood": "top1", "prior_weight": 0.2}
    values |= {"consensus_weight": 0.3, "persona_weight": 0.4, "length_power": 0.5}
    keys = [f"evaluation.rerank.{key}={value}" for key, value in values.items()]
    recipe = recipe_of("evaluation.decoding=rerank", "seed=9", *keys)
    found = build.reranking(recipe)
    assert found is not None
    assert (found.sampling.candidates, found.sampling.source, found.sampling.top_p) == (5, "fused", 0.8)
    assert (found.sampling.seed, found.sampling.greedy) == (9, 1)
    assert found.weights == RerankWeights("top1", length_power=0.5, prior=0.2, consensus=0.3, persona=0.4)
    assert build.decoding(recipe).kind == "top1"


def test_defaults_of_recipe_and_library_are_the_same():
    assert build.make_reranking(RerankSection(), seed=0) == Reranking()


# Truncation.


def test_truncation_is_counted_turn_by_turn(tiny_base: LoadedBase):
    """Turns of a long dialogue: the first fits whole, later ones lose history, one response is longer than the window."""
    encoder = build.make_encoder(recipe_of("template.max_length=100"), tiny_base)
    turns = tuple(Turn("what about the nets ?", "they are mended and dry .") for _ in range(5))
    report = count_truncation(encoder, [Dialogue("a", ("i mend nets .",), turns)])
    tokens = [encoder.encode_context(Dialogue("a", ("i mend nets .",), turns).context(n)) for n in range(5)]
    assert report.turns == 5
    assert report.truncated_turns == sum(context.dropped_turns > 0 for context in tokens) > 0
    assert report.too_long == 0
    assert report.context_tokens["max"] == max(len(context.input_ids) for context in tokens) <= encoder.context_budget
    assert report.response_tokens["max"] == len(encoder.response_ids("they are mended and dry .")) + 1


def test_turns_that_do_not_fit_are_counted_not_raised(tiny_base: LoadedBase):
    encoder = build.make_encoder(recipe_of(), tiny_base)
    long = Dialogue("a", (), (Turn("hi", "nets " * 2000), Turn("x " * 3000, "yes"), Turn("short", "yes")))
    report = count_truncation(encoder, [long])
    assert (report.turns, report.too_long) == (3, 2)


def test_turns_without_a_response_do_not_count(tiny_base: LoadedBase):
    encoder = build.make_encoder(recipe_of(), tiny_base)
    assert count_truncation(encoder, [Dialogue("a", (), (Turn("hi"),))]).turns == 0


def test_a_truncation_report_needs_only_a_recipe(tiny_base: LoadedBase, tmp_path: Path):
    base = save_base(tiny_base, tmp_path / "base")
    report = build.truncation_report(recipe_of(f"model.base={base}", "model.dtype=float32"), talks(3))
    assert report.turns == sum(len(talk.turns) for talk in talks(3))


# The trainer.


def test_the_trainer_has_the_recipes_settings(tiny_base: LoadedBase, file: Path, tmp_path: Path):
    recipe = recipe_of(
        f"data.path={file}",
        "data.train=1:8",
        "data.validation=9:10",
        f"output={tmp_path / 'run'}",
        "retriever.centre=false",
        "training.max_steps=2",
        "losses.update=responsibility",
        "training.shared=0.5",
        "seed=4",
    )
    model = build.make_model(recipe, base=tiny_base)
    trainer = build.make_trainer(recipe, model, load_data(recipe))
    assert (trainer.args.max_steps, trainer.args.seed, trainer.folder) == (2, 4, tmp_path / "run")
    assert trainer.objective.settings.update == "responsibility"
    assert (len(trainer.sequences), len(trainer.validation)) == (8, 2)
    assert not bool(model.retriever.centre.any())
    assert torch.equal(model.prompts.embeddings[1], model.prompts.embeddings[0]), "shared, to begin with"


def test_the_trainer_prepares_the_retriever(tiny_base: LoadedBase, file: Path, tmp_path: Path):
    """Keys move from random numbers to clusters; with fewer turns than prompts that is refused."""
    overrides = (f"data.path={file}", f"output={tmp_path / 'run'}", "retriever.keys=clusters", "retriever.whiten=4")
    recipe = recipe_of(*overrides)
    model = build.make_model(recipe, base=tiny_base)
    assert model.retriever.keys is not None
    before = model.retriever.keys.detach().clone()
    build.make_trainer(recipe, model, load_data(recipe))
    assert not torch.equal(model.retriever.keys, before)
    assert bool(model.retriever.centre.any())
    few = recipe_of(*overrides, "data.train=1:1", "prompts.count=99")
    with pytest.raises(DataError, match=r"data\.train: \d turns, fewer than the 99 clusters"):
        build.make_trainer(few, build.make_model(few, base=tiny_base), load_data(few))
