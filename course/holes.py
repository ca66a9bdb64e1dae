"""The holes: functions that a student can be asked to write, and the tests that grade each. One hole is one entry.

The functions' docstrings are the assignment, so every one of them states its equation and shapes. All tests of a hole
must fail where it is blank, and pass with the code as it is, even if the holes below it are blank, as they may be in a
homework. `tests/course` holds every entry to that, and to the wrong answers that are listed there.
"""

from collections.abc import Sequence
from typing import NamedTuple

from caption.errors import UserError


class Hole(NamedTuple):
    """One task of a homework. Functions are named FILE::NAME, tests as pytest names them."""

    points: int
    title: str  # with the place in the paper
    functions: tuple[str, ...]  # to be written
    # They grade. The first is the equation itself, without which there are no points; otherwise each brings the same
    # part of them. A parametrised test passes if all of its cases do.
    tests: tuple[str, ...]
    hint: str
    twins: tuple[str, ...] = ()  # functions that hold the same equation, and are left out

    @property
    def files(self) -> list[str]:
        """The files of the functions, each once."""
        return list(dict.fromkeys(function.split("::")[0] for function in self.functions))


REFERENCE = "tests/ops/test_reference.py"
ATTENTION = "tests/attention/test_attention.py"
HARD = "tests/attention/test_hard.py"
DECODER = "tests/decoders/test_show_attend_tell.py"
DECODERS = "tests/decoders/test_decoders.py"
SEARCH = "tests/test_search.py"
COCO = "tests/evaluation/test_coco.py"

# By name, in the order in which they can be written.
HOLES: dict[str, Hole] = {
    "additive_score": Hole(
        10,
        "The score of a region, eq. 4",
        ("caption/ops/reference.py::additive_scores",),
        (
            f"{REFERENCE}::test_additive_scores_are_the_perceptron_of_each_region",
            f"{REFERENCE}::test_additive_scores_of_half_precision_are_summed_in_float32",
            f"{ATTENTION}::test_scores_by_their_equations",
            f"{ATTENTION}::test_concat_is_additive",
            f"{REFERENCE}::test_gradients_of_additive_scores_equal_central_differences",
        ),
        "Every row q meets every region i of its image: give both an axis of length 1 where the other has its own, and "
        "let broadcasting do the rest. `upcast_float32` casts half precision, and leaves float64 alone.",
        ("caption/decoders/adaptive.py::AdaptiveDecoder.sentinel_weight",),
    ),
    "soft_context": Hole(
        10,
        "Weights and context of soft attention, eq. 5 and 13",
        ("caption/ops/reference.py::attention_weights", "caption/ops/reference.py::weighted_sum"),
        (
            f"{ATTENTION}::test_scaled_dot_is_pytorch_s",
            f"{REFERENCE}::test_a_weighted_sum_is_the_expectation_of_the_values",
            f"{REFERENCE}::test_attention_weights_are_a_distribution_over_the_regions",
            f"{REFERENCE}::test_large_scores_have_weights_and_no_overflow",
            f"{ATTENTION}::test_permuting_regions_permutes_weights[general-soft]",
        ),
        "Over which axis do the weights of one row sum to one? The context needs no loop: it is a batched matrix "
        "product of [Q, L] and [L, D].",
    ),
    "gate": Hole(
        5,
        "The gate beta_t, section 4.2.1",
        ("caption/ops/reference.py::gate_context",),
        (
            f"{REFERENCE}::test_the_gate_is_a_number_for_each_row_that_scales_its_context",
            f"{REFERENCE}::test_the_gate_is_closed_half_open_or_open",
        ),
        "f_beta is a linear layer with one output. The context is scaled by beta_t of its own row, and beta_t is "
        "returned without the axis of length 1.",
    ),
    "lstm_cell": Hole(
        10,
        "The LSTM, eq. 1-3",
        ("caption/ops/reference.py::lstm_cell",),
        (
            f"{REFERENCE}::test_lstm_cell_is_pytorch_s",
            f"{REFERENCE}::test_the_gates_of_the_lstm_keep_write_and_show",
            f"{DECODERS}::test_luong_by_its_equations",
            f"{DECODERS}::test_up_down_by_its_equations",
        ),
        "The affine map of eq. 1 is done already: add its three addends, split the sum into four parts of width H in "
        "the order of the docstring (it is not PyTorch's), and apply a sigmoid to three of them.",
    ),
    "deep_output": Hole(
        10,
        "The deep output layer, eq. 7",
        ("caption/decoders/show_attend_tell.py::ShowAttendTellDecoder.output_layer",),
        (
            f"{DECODER}::test_show_attend_tell_by_its_equations",
            f"{DECODER}::test_the_output_layer_drops_out_the_state_and_the_sum",
            f"{DECODER}::test_forward_equals_a_loop_of_step",
            f"{DECODER}::test_first_loss_is_about_log_v",
        ),
        "Logits are asked for: no softmax, and no tanh either (the authors' code has one, the paper has none). "
        "`self.state_dropout` is for h_t, `self.dropout` for the sum.",
    ),
    "doubly_stochastic": Hole(
        10,
        "Doubly stochastic attention, eq. 14",
        ("caption/training/losses.py::doubly_stochastic",),
        (
            f"{DECODER}::test_doubly_stochastic_by_hand",
            f"{DECODER}::test_doubly_stochastic_is_the_paper_s_sum",
            f"{DECODER}::test_padding_has_exactly_zero_gradient",
            f"{DECODER}::test_gradients_numerically",
        ),
        "`references.weights` is [B, Q, T, L], and zero at steps without a word. Sum over which axis first? A row "
        "without any word has attended to nothing, and must not pay for it.",
    ),
    "hard_attention": Hole(
        15,
        "Stochastic hard attention, eq. 8-9",
        ("caption/attention/hard.py::HardAttention.attend",),
        (
            f"{HARD}::test_draws_follow_alpha_and_the_context_is_the_region",
            f"{HARD}::test_samples_tell_the_probability_of_their_location_and_the_entropy",
            f"{HARD}::test_the_probability_of_a_sample_and_the_entropy_have_gradients",
            f"{HARD}::test_no_nan_where_alpha_is_zero_or_one",
            f"{HARD}::test_the_bound_is_a_bound",
            f"{HARD}::test_forward_equals_a_loop_of_step",
            f"{HARD}::test_straight_through_reads_the_sampled_location",
        ),
        "`self.logits` gives log alpha_t up to a constant, `sample_location` and, for `memory.gumbel_softmax`, "
        "`sample_relaxed` choose. Rows that take the expectation have location -1 and log-probability 0. Keep log "
        "alpha throughout: 0 times the logarithm of 0 is no number.",
        ("caption/attention/glimpses.py::Retina.choose",),
    ),
    "reinforce": Hole(
        20,
        "Learning where to look by REINFORCE, eq. 11-12",
        (
            "caption/training/reinforce.py::update_baseline",
            "caption/training/reinforce.py::advantages",
            "caption/training/losses.py::reinforce_loss",
        ),
        (
            f"{HARD}::test_the_estimator_s_expectation_is_the_gradient_of_the_bound[none-caption]",
            f"{HARD}::test_the_estimator_s_expectation_is_the_gradient_of_the_bound",
            f"{HARD}::test_baseline_is_the_moving_average",
            f"{HARD}::test_the_baseline_lowers_the_variance",
            f"{HARD}::test_rewards_of_captions_of_different_lengths",
            f"{HARD}::test_leave_one_out_compares_the_draws_of_one_caption",
        ),
        "Begin with `config.reward` caption and `config.baseline` none, then moving_average. `_to_go` sums from each "
        "step on, rewards as well as words. Where no caption has sampled, and in a row without words, mind 0/0. The "
        "loss is minimised: mind the sign.",
        (
            "caption/training/losses.py::self_critical_loss",
            "caption/training/self_critical.py::CaptionSampler.__call__",
        ),
    ),
    "beam": Hole(
        15,
        "The step of beam search",
        ("caption/search.py::best_continuations",),
        (
            f"{SEARCH}::test_a_narrow_beam_is_a_list_that_is_sorted_and_cut[0.0]",
            f"{SEARCH}::test_a_narrow_beam_is_a_list_that_is_sorted_and_cut",
            f"{SEARCH}::test_beam_of_one_is_greedy",
            f"{SEARCH}::test_full_width_beam_is_brute_force",
            f"{SEARCH}::test_wider_than_all_captions_returns_them_all_and_no_more",
            f"{SEARCH}::test_what_is_reported_equals_rescoring",
            f"{SEARCH}::test_batch_of_three_is_three_of_one",
        ),
        "Make one tensor of all K V candidates of an image [B, K, V], and take the best K of its flattened form by "
        "`topk`: an index then tells the hypothesis (index // V) and the word (index % V). A finished hypothesis has "
        "one candidate, PAD. Rank by the normalised score, but return log-probabilities.",
    ),
    "bleu": Hole(
        15,
        "BLEU: clipped precision and brevity penalty (Papineni et al., 2002)",
        ("caption/evaluation/bleu.py::clipped_matches", "caption/evaluation/bleu.py::bleu_from_sums"),
        (
            f"{COCO}::test_bleu_and_rouge_equal_a_hand_calculation",
            f"{COCO}::test_bleu_uses_every_reference_and_is_a_corpus_score",
            f"{COCO}::test_bleu_clips_by_the_reference_that_has_an_ngram_most_often",
            f"{COCO}::test_empty_captions_score_0",
            f"{COCO}::test_bleu_equals_nltk",
        ),
        "Loops will do. A row of `counts.captions` says that in the caption of image `text` the n-gram `gram` occurs "
        "`times` times; in `counts.references`, `text` numbers the references of all images one after the other.",
        ("caption/evaluation/reward.py::_bleu_4",),
    ),
}


def choose(names: str) -> list[str]:
    """Return the names of holes in a list separated by commas, in the order of HOLES; of an empty one, all.

    Raises UserError for an unknown name.
    """
    asked = [name.strip() for name in names.split(",") if name.strip()]
    if unknown := [name for name in asked if name not in HOLES]:
        raise UserError(f"--holes: there is no hole {unknown[0]!r}; known: {', '.join(HOLES)}")
    return [name for name in HOLES if name in asked or not asked]


def graders(names: Sequence[str]) -> list[str]:
    """Return the files of the tests that grade these holes, each once."""
    return sorted({test.split("::")[0] for name in names for test in HOLES[name].tests})
