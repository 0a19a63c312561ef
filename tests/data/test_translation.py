"""Translation: its data, the Transformer alone and in fleets, and the search for a sentence."""

from __future__ import annotations

import functools
import itertools
import math
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from threeregime.data.decoding import beam_search, bleu
from threeregime.data.registry import load_task
from threeregime.data.task import IGNORED_TARGET, stream_seed
from threeregime.data.translation import TRANSLATIONS, Translation
from threeregime.data.vocabulary import BOS, EOS, PAD, SPECIAL_TOKENS, Numerals, split_numeral
from threeregime.errors import ThreeRegimeError
from threeregime.fleet.fleet import Fleet
from threeregime.metrics.pairs import measure_pairs
from threeregime.models.registry import NETS, net_builder
from threeregime.models.transformer import Attention, Transformer, positions
from threeregime.protocol import Data, Dense, Net, Protocol, Training
from threeregime.pruning import magnitude
from threeregime.sweep import memory
from threeregime.training.evaluation import evaluate_errors, evaluate_outputs
from threeregime.training.run import TrainingRun

NOWHERE = Path("nowhere")
ADAM = Training(
    optimizer="adam",
    lr=1e-2,
    schedule="inverse_sqrt",
    warmup=20,
    smoothing=0.1,
    weight_decay=0.0,
    milestones=(),
    batch_size=8,
    epochs=50,
)
unstacked = pytest.mark.parametrize("backend", ["separate", "vmapped"])


@functools.cache
def numbers() -> Translation:
    return TRANSLATIONS["number-words"](NOWHERE, False)


@functools.cache
def small() -> Translation:
    """The first 32 pairs, which are also what is tested."""
    few = numbers().reduced(32, None)
    references = tuple(
        few.vocabulary.decode(row[few.source_length :].tolist()) for row in few.train
    )
    return Translation(
        few.name, few.vocabulary, few.train, few.train, few.source_length, references
    )


def build() -> nn.Module:
    return net_builder(Net("transformer", depth=1, width=0.03125), small())()


def make_run(seeds: list[int], backend: str, dtype: torch.dtype = torch.float64) -> TrainingRun:
    fleet = Fleet.initial(build, seeds, dtype=dtype, backend=backend)
    return TrainingRun(fleet, small().loader(seeds, 8), ADAM)


def text(data: Translation, row: Tensor) -> tuple[str, str]:
    decode, numbers = data.vocabulary.decode, row.tolist()
    return decode(numbers[: data.source_length]), decode(numbers[data.source_length :])


# --- data


def test_numbers_are_the_same_every_time_and_apart() -> None:
    again = TRANSLATIONS["number-words"](NOWHERE, True)
    assert torch.equal(again.train, numbers().train)
    assert again.references == numbers().references
    train, test = ({text(again, row) for row in part} for part in (numbers().train, numbers().test))
    assert (len(train), len(test)) == (2000, 300)
    assert not train & test
    assert {english for _, english in test} == set(again.references)


@pytest.mark.parametrize(
    ("german", "english"),
    [
        ("dreiundvierzig", "forty-three"),
        ("neuntausendsechzehn", "nine thousand and sixteen"),
        ("eintausendsiebenhundertdreißig", "one thousand, seven hundred and thirty"),
    ],
)
def test_numerals_fall_apart_and_join_again(german: str, english: str) -> None:
    vocabulary = numbers().vocabulary
    for sentence in (german, english):
        assert vocabulary.decode([*vocabulary.encode(sentence), EOS, SPECIAL_TOKENS]) == sentence
    assert split_numeral("dreiundvierzig") == ["drei", "und", "vier", "zig"]
    assert split_numeral("forty-three") == [" forty", "-", " three"]
    # what was never seen is a piece of its own, and no text
    assert vocabulary.decode(vocabulary.encode("million")) == ""


def test_known_translations_are_among_the_data() -> None:
    from num2words import num2words

    english = {num2words(n, lang="de"): num2words(n, lang="en") for n in range(1, 10_000)}
    assert english["dreiundvierzig"] == "forty-three"
    for row in torch.cat([numbers().train[:200], numbers().test[:50]]):
        source, target = text(numbers(), row)
        assert english[source] == target


def test_rows_are_source_begin_target_end() -> None:
    train = [("zweizig", "two"), ("two", "zweizigtwo")]
    data = Translation.from_pairs("made", Numerals(["two", "zweizig"]), train, [("zwei", "zig")])
    c, a, b = SPECIAL_TOKENS, SPECIAL_TOKENS + 2, SPECIAL_TOKENS + 1  # in the order of the alphabet
    assert data.source_length == 3
    assert data.train.tolist() == [
        [a, b, EOS, BOS, c, EOS, PAD, PAD],
        [c, EOS, PAD, BOS, a, b, c, EOS],
    ]
    told, following = data.shifted(data.train)
    assert torch.equal(told, data.train[:, :-1].long())
    assert following.tolist() == [[c, EOS, IGNORED_TARGET, IGNORED_TARGET], [a, b, c, EOS]]
    assert data.references == ("zig",)


def test_batches_follow_each_members_own_order() -> None:
    data = numbers()
    batches = data.loader([3, 8], 16)
    assert batches.steps == 125
    draws = batches.draw(1)
    told, following = batches.batch(batches.step_draws(draws, 4), torch.float32)
    for member, seed in enumerate((3, 8)):
        generator = torch.Generator().manual_seed(stream_seed(seed, 1))
        order = torch.randperm(2000, generator=generator)[64:80]
        expected = data.shifted(data.train[order])
        assert torch.equal(told[:, member], expected[0])
        assert torch.equal(following[member], expected[1])


# --- the net


def test_attention_is_torchs_own() -> None:
    torch.manual_seed(0)
    ours, theirs = Attention(12, 3), nn.MultiheadAttention(12, 3, batch_first=True)
    with torch.no_grad():
        own = [ours.query, ours.key, ours.value]
        theirs.in_proj_weight.copy_(torch.cat([layer.weight for layer in own]))
        theirs.in_proj_bias.copy_(torch.cat([layer.bias for layer in own]))
        theirs.out_proj.load_state_dict(ours.join.state_dict())
    x, memory = torch.randn(4, 5, 12), torch.randn(4, 7, 12)
    hidden = torch.arange(7) >= torch.tensor([7, 3, 1, 5])[:, None]
    expected, _ = theirs(x, memory, memory, key_padding_mask=hidden)
    torch.testing.assert_close(ours(x, memory, hidden[:, None, None]), expected)


def test_layers_are_torchs_own() -> None:
    """Norms after the sums, as nn.TransformerEncoderLayer has them unless told otherwise."""
    torch.manual_seed(0)
    net = Transformer(1, 16 / 512, 6, 20)
    x, memory = torch.randn(3, 5, 16), torch.randn(3, 6, 16)
    hidden = torch.arange(6) >= torch.tensor([6, 2, 4])[:, None]
    later = torch.ones(5, 5, dtype=torch.bool).triu(1)
    options = {"dropout": 0.0, "batch_first": True}
    encoder = nn.TransformerEncoderLayer(16, 2, 64, **options)  # type: ignore[arg-type]
    decoder = nn.TransformerDecoderLayer(16, 2, 64, **options)  # type: ignore[arg-type]
    names = {"attention": "self_attn", "source": "multihead_attn"}
    for ours, theirs in ((net.encoder[0], encoder), (net.decoder[0], decoder)):
        for norm in (layer for layer in ours.modules() if isinstance(layer, nn.LayerNorm)):
            nn.init.uniform_(norm.weight, 0.5, 2)
            nn.init.uniform_(norm.bias, -1, 1)
        given = ours.state_dict()
        made = {n: t for n, t in given.items() if n.startswith("norm")}
        for end in ("weight", "bias"):
            made[f"linear1.{end}"] = given[f"perceptron.up.{end}"]
            made[f"linear2.{end}"] = given[f"perceptron.down.{end}"]
            for own, other in names.items():
                if f"{own}.join.{end}" in given:
                    parts = [given[f"{own}.{part}.{end}"] for part in ("query", "key", "value")]
                    made[f"{other}.in_proj_{end}"] = torch.cat(parts)
                    made[f"{other}.out_proj.{end}"] = given[f"{own}.join.{end}"]
        theirs.load_state_dict(made)
    torch.testing.assert_close(
        net.encoder[0](memory, hidden[:, None, None]), encoder(memory, src_key_padding_mask=hidden)
    )
    torch.testing.assert_close(
        net.decoder[0](x, later, memory, hidden[:, None, None]),
        decoder(x, memory, tgt_mask=later, memory_key_padding_mask=hidden),
    )


def test_positions_are_sines_and_cosines() -> None:
    made = positions(7, 6, torch.zeros((), dtype=torch.float64))
    for place, rank in itertools.product(range(7), range(3)):
        angle = place / 10_000 ** (2 * rank / 6)
        assert made[place, rank].item() == pytest.approx(math.sin(angle))
        assert made[place, 3 + rank].item() == pytest.approx(math.cos(angle))


def test_transformer_base_has_its_published_size() -> None:
    """65 million (Vaswani et al., Table 3) with their 37,000 pieces."""
    with torch.device("meta"):
        net = NETS["transformer"].build(6, 1.0, 64, 37_000)
    assert isinstance(net, Transformer)
    assert sum(p.numel() for p in net.parameters()) == pytest.approx(65e6, rel=0.035)
    assert (net.features, net.encoder[0].attention.heads) == (512, 8)  # type: ignore[union-attr]
    assert Transformer(1, 0.03125, 4, 9).features == 16


@torch.no_grad()
def test_what_comes_later_changes_nothing_before() -> None:
    net, rows = build().double(), small().train.long()
    logits = net(rows)
    changed = rows.clone()
    changed[:, small().source_length + 4 :] = SPECIAL_TOKENS
    torch.testing.assert_close(net(changed)[:, :4], logits[:, :4], rtol=1e-12, atol=1e-12)
    assert not torch.allclose(net(changed)[:, 4], logits[:, 4])


@torch.no_grad()
def test_padding_and_a_known_source_change_nothing() -> None:
    places, rows = small().source_length, small().train.long()
    torch.manual_seed(0)
    net, longer = (Transformer(1, 0.03125, p, 75).double() for p in (places, places + 5))
    longer.load_state_dict(net.state_dict())
    padded = torch.cat([F.pad(rows[:, :places], (0, 5), value=PAD), rows[:, places:]], dim=1)
    torch.testing.assert_close(longer(padded), net(rows), rtol=1e-12, atol=1e-12)
    memory = net(rows[:, :places])
    assert memory.shape == (32, places, 16)
    assert torch.equal(net(rows, memory), net(rows))


# --- fleets


@unstacked
def test_a_fleet_of_three_equals_the_three_alone(backend: str) -> None:
    """The reference is an ordinary module and optimizer: no code of the engine but its batches."""
    run = make_run([1, 2, 3], backend)
    before = run.fleet.state()
    draws = run.loader.draw(0)
    for step in range(4):
        run.step(*run.loader.step_draws(draws, step))
    after = run.fleet.state()
    for member in range(3):
        plain = build().double()
        plain.load_state_dict({name: t[member] for name, t in before.items()})
        # steps taken one by one are all at the rate that a run begins with
        optimizer = torch.optim.Adam(plain.parameters(), ADAM.lr)
        for step in range(4):
            told, following = run.loader.batch(run.loader.step_draws(draws, step), torch.float64)
            optimizer.zero_grad()
            F.cross_entropy(
                plain(told[:, member]).flatten(0, 1),
                following[member].flatten(),
                ignore_index=IGNORED_TARGET,
                label_smoothing=ADAM.smoothing,
            ).backward()
            optimizer.step()
        for name, tensor in plain.state_dict().items():
            torch.testing.assert_close(after[name][member], tensor, rtol=1e-7, atol=1e-9)


@unstacked
def test_linear_layers_are_pruned_and_stay_so(backend: str) -> None:
    run = make_run([1, 2], backend, torch.float32)
    names = set(run.fleet.prunable())
    layers = {n for n, m in build().named_modules() if isinstance(m, nn.Linear)}
    assert names == {f"{layer}.weight" for layer in layers}
    assert len(names) == 6 + 10  # a layer of the encoder and one of the decoder
    assert not any("embedding" in name or "norm" in name for name in names)
    state = run.fleet.state()
    run.prune(
        magnitude.magnitude_masks({n: state[n] for n in names}, ["uniform", "global"], [0.1, 0.3])
    )
    before = {name: run.fleet.state()[name] != 0 for name in names}
    run.run_epoch()
    after = run.state()
    for name, kept in before.items():
        assert (after[name][~kept] == 0).all()
        assert (after[name][kept] != 0).float().mean() > 0.99
    share = torch.stack([kept.flatten(1).sum(1) for kept in before.values()]).sum(0)
    assert (share / sum(kept[0].numel() for kept in before.values())).tolist() == pytest.approx(
        [0.1, 0.3], abs=0.01
    )


def test_statistics_do_not_run_vmapped() -> None:
    net = NETS["preresnet"].build(8, 0.25, 1, 10)
    with pytest.raises(ThreeRegimeError, match=r"batch norm.*vmapped: use grouped or separate"):
        Fleet.initial(lambda: net, [0], backend="vmapped")


def test_a_tiny_set_is_learned_and_measured() -> None:
    run = make_run([1, 2, 3, 4], "vmapped", torch.float32)
    start = evaluate_errors(run.fleet, small(), train=False)
    for _ in range(ADAM.epochs):
        run.run_epoch()
    assert (start > 0.9).all()
    assert (evaluate_errors(run.fleet, small(), train=False) < 0.15).all()
    taught = evaluate_errors(run.fleet, small(), train=True)
    assert (taught < 0.05).all()
    # both ends of the line are the nets themselves; a net is like itself
    pairs = measure_pairs(run.fleet, [(0, 1), (2, 2)], small(), points=3, samples=100)
    assert pairs.curve[0, [0, 2]].tolist() == taught[:2].tolist()
    assert pairs.lmc[1] == 0
    assert pairs.cka_softmax[1].item() == pytest.approx(1)
    assert 0.3 < pairs.cka_softmax[0] < 1


# --- what is measured


def test_the_loss_is_each_members_mean_over_its_own_pieces() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 3, 4, 5, generator=generator, dtype=torch.float64)
    truth = torch.randint(5, (2, 3, 4), generator=generator)
    truth[0, 1:] = IGNORED_TARGET
    truth[1, 0, 2:] = IGNORED_TARGET
    expected = 0.0
    for member in range(2):
        each = []
        for row, place in itertools.product(range(3), range(4)):
            right = int(truth[member, row, place])
            if right != IGNORED_TARGET:
                log = logits[member, row, place].log_softmax(0)
                each.append(-(0.9 * log[right] + 0.1 * log.mean()).item())
        expected += sum(each) / len(each)
    assert small().loss(logits, truth, 0.1).item() == pytest.approx(expected)


def test_training_error_is_the_share_of_pieces_guessed_wrong() -> None:
    fleet = Fleet.initial(build, [1, 2], dtype=torch.float64, backend="separate")
    for member in range(2):
        plain = build().double()
        plain.load_state_dict({name: t[member] for name, t in fleet.state().items()})
        told, following = small().shifted(small().train)
        guess, known = plain(told).argmax(-1), following != IGNORED_TARGET
        wrong = (guess != following)[known].double().mean()
        assert evaluate_errors(fleet, small(), train=True)[member] == wrong
        expected = plain(told)[known][:50]
        made = evaluate_outputs(fleet, small(), 50)[member]
        torch.testing.assert_close(made, expected, rtol=1e-9, atol=1e-9)


def test_a_diverged_member_has_no_error_and_touches_no_other() -> None:
    fleet = Fleet.initial(build, [1, 2], backend="vmapped")
    healthy = evaluate_errors(fleet, small(), train=False)
    state = fleet.state()
    state["embedding.weight"][1] = torch.nan
    fleet.load(state)
    ill = evaluate_errors(fleet, small(), train=False)
    assert ill[0] == healthy[0]
    assert ill[1].isnan()


def test_bleu_is_one_for_the_reference_and_counts_words() -> None:
    reference = ["one thousand, two hundred and five", "forty-three"]
    assert bleu(reference, reference) == pytest.approx(1)
    assert bleu(["one thousand, two hundred and six", "forty-three"], reference) < 0.95


# --- the search


def toy(table: Tensor) -> Callable[[Tensor], Tensor]:
    """The next piece depends on the last one and on how many there are; one table a sentence."""

    def following(rows: Tensor) -> Tensor:
        beam = len(rows) // len(table)
        which = torch.arange(len(table)).repeat_interleave(beam)
        return table[which, rows.shape[1] - 1, rows[:, -1]]

    return following


def toy_table() -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return 2 * torch.randn(6, 4, 7, 7, generator=generator)


def by_hand(table: Tensor, row: list[int], penalty: float) -> float:
    """What a candidate is worth: its pieces one by one."""
    total = 0.0
    for place, (last, piece) in enumerate(itertools.pairwise(row)):
        total += table[place, last].log_softmax(0)[piece].item()
    return total / ((5 + len(row) - 1) / 6) ** penalty


def test_a_beam_of_one_is_greedy() -> None:
    table = toy_table()
    found = beam_search(toy(table), 6, longest=4, beam=1)
    for sentence in range(6):
        row = [BOS]
        while len(row) < 5 and row[-1] != EOS:
            logits = table[sentence, len(row) - 1, row[-1]].clone()
            logits[[PAD, BOS]] = -torch.inf
            row.append(int(logits.argmax()))
        assert found[sentence].tolist() == row + [PAD] * (5 - len(row))


@pytest.mark.parametrize("penalty", [0.0, 0.6, 2.0])
def test_a_wide_beam_finds_the_best_sentence(penalty: float) -> None:
    table = toy_table()
    found = beam_search(toy(table), 6, longest=4, beam=400, penalty=penalty)
    narrow = beam_search(toy(table), 6, longest=4, beam=1, penalty=penalty)
    text = range(EOS + 1, 7)
    ended = [[BOS, *pieces, EOS] for n in range(4) for pieces in itertools.product(text, repeat=n)]
    open_ = [[BOS, *pieces] for pieces in itertools.product(text, repeat=4)]
    better = 0
    for sentence in range(6):
        value = {tuple(row): by_hand(table[sentence], row, penalty) for row in ended + open_}
        best = max(value, key=lambda row: value[row])
        assert found[sentence].tolist() == [*best, *[PAD] * (5 - len(best))]
        better += not torch.equal(found[sentence], narrow[sentence])
    assert better  # greedy search misses some


@unstacked
def test_a_fleet_translates_as_its_nets_do_alone(backend: str) -> None:
    run = make_run([1, 2], backend)
    for _ in range(6):
        run.run_epoch()
    together = small().translate(run.fleet, small().test[:9])
    places = small().source_length
    for member in range(2):
        plain = build().double()
        plain.load_state_dict({name: t[member] for name, t in run.fleet.state().items()})
        for number, row in enumerate(small().test[:9, :places].long()):

            def following(begun: Tensor, row: Tensor = row, plain: nn.Module = plain) -> Tensor:
                return plain(torch.cat([row.expand(len(begun), -1), begun], dim=1))[:, -1]

            with torch.no_grad():
                found = beam_search(following, 1, small().train.shape[1] - places - 1)
            assert together[member][number] == small().vocabulary.decode(found[0].tolist())


# --- refusals


def refusal(call: Callable[[], object]) -> str:
    with pytest.raises(ThreeRegimeError) as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_what_does_not_fit_sentences_is_refused() -> None:
    data = numbers()
    assert "data.size = 4 is not allowed" in refusal(lambda: data.reduced(None, 4))
    assert "has 2000 training sentences" in refusal(lambda: data.reduced(2001, None))
    assert "data.crop = 4, data.flip = True" in refusal(lambda: data.augmented(4, True))
    assert "2000 training sentences" in refusal(lambda: data.loader([0], 2001))
    pictures = load_task(Data("digits"), NOWHERE, False, "cpu")
    assert "digits holds images: preresnet" in refusal(
        lambda: net_builder(Net("transformer"), pictures)
    )
    assert "number-words holds sentences: transformer" in refusal(lambda: net_builder(Net(), data))
    assert "net.depth = 0" in refusal(lambda: net_builder(Net("transformer", 0), data))
    assert "dense.smoothing = 1.0" in refusal(lambda: Dense(smoothing=1.0))


def write(at: Path, **parts: list[str]) -> Path:
    folder = at / "wmt14"
    folder.mkdir(exist_ok=True)
    for name, lines in parts.items():
        (folder / name.replace("_", ".")).write_text("".join(f"{line}\n" for line in lines))
    return at


def test_missing_or_unequal_files_are_one_line(tmp_path: Path) -> None:
    load = TRANSLATIONS["wmt14"]
    message = refusal(lambda: load(tmp_path, False))
    assert f"{tmp_path / 'wmt14' / 'train.de'} is missing" in message
    assert "--download" in message
    write(tmp_path, train_de=["ja", "nein"], train_en=["yes"])
    assert "train.de has 2 lines and train.en 1" in refusal(lambda: load(tmp_path, False))


def test_a_missing_library_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for library in ("sentencepiece", "datasets"):
        monkeypatch.setitem(sys.modules, library, None)
    load = TRANSLATIONS["wmt14"]
    assert "pip install datasets" in refusal(lambda: load(tmp_path, True))
    write(tmp_path, train_de=["ja"], train_en=["yes"], test_de=["ja"], test_en=["yes"])
    assert "pip install sentencepiece" in refusal(lambda: load(tmp_path, False))


def test_a_folder_of_parallel_files(tmp_path: Path) -> None:
    pytest.importorskip("sentencepiece", reason="pip install sentencepiece==0.2.3")
    pairs = [text(numbers(), row) for row in numbers().train[:300]]
    german, english = (list(side) for side in zip(*pairs, strict=True))
    german.append(" ".join(german[:40]))  # far too long: left out of the training set
    english.append("too long")
    write(tmp_path, train_de=german, train_en=english, test_de=german[:5], test_en=english[:5])
    made = TRANSLATIONS["wmt14"](tmp_path, False)
    assert (made.count, len(made.test)) == (300, 5)
    assert made.references == tuple(english[:5])
    assert [text(made, row) for row in made.train] == pairs
    again = TRANSLATIONS["wmt14"](tmp_path, False)
    assert torch.equal(again.train, made.train)


def test_memory_is_foreseen() -> None:
    protocol = Protocol.from_dict(
        {
            "data": {"name": "number-words", "crop": 0, "flip": False},
            "net": {"name": "transformer", "depth": 1, "width": 0.03125},
        }
    )
    one, two = (memory._bytes(protocol.net, protocol.data, n, place()) for n in (32, 64))
    assert 1.5 < two / one < 2.5


def place() -> memory.JobContext:
    from threeregime.experiments import catalogue

    return memory.JobContext(catalogue.load_experiment("figure_14", "smoke"), NOWHERE, NOWHERE)
