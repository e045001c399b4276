import pytest
import torch
from tests.models.test_unet import awake, spec

from raydiance.models import Condition, vocabulary, word_numbers

TEXTS = ["A red chair", "a blue chair with four legs", "a red, red sofa"]


def test_the_most_frequent_words_are_known_and_the_rest_share_a_number():
    words = vocabulary(TEXTS, 5)
    assert words == ("a", "red", "chair")
    numbers = word_numbers(["RED chair!", "", "a green chair of red wood"], words, 4)
    assert numbers.tolist() == [[3, 4, 0, 0], [0, 0, 0, 0], [2, 1, 4, 1]]


@pytest.fixture(scope="module")
def network():
    return awake(spec(2, token_dim=8, vocabulary=16, max_words=6, attention_levels=(0,), global_width=8))


def test_words_and_their_order_are_heard(network):
    x, level = torch.ones(3, 2, 8, 8), torch.zeros(3)
    words = vocabulary(TEXTS, 16)
    texts = ["a red chair", "a blue chair", "chair red a"]
    out = network(x, level, condition=Condition(tokens=word_numbers(texts, words, 6)))
    assert (out[0] - out[1]).abs().max() > 1e-4 and (out[0] - out[2]).abs().max() > 1e-4


def test_an_empty_text_is_none_whether_one_item_or_all_are_silent(network):
    x, level = torch.ones(2, 2, 8, 8), torch.zeros(2)
    numbers = word_numbers(["", "red sofa"], vocabulary(TEXTS, 16), 6)
    out = network(x, level, condition=Condition(tokens=numbers))
    silent = network(x, level)
    torch.testing.assert_close(out[0], silent[0])
    assert (out[1] - silent[1]).abs().max() > 1e-4


def test_training_and_evaluation_do_the_same_arithmetic(network):
    numbers = word_numbers(TEXTS, vocabulary(TEXTS, 16), 6)
    with torch.no_grad():
        evaluated = network.text(numbers)
        trained = network.text.train()(numbers)
    network.eval()
    assert torch.equal(evaluated, trained)


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"vocabulary": 2, "token_dim": 8}, "vocabulary"),
        ({"vocabulary": 16, "token_dim": 0}, "token_dim"),
        ({"vocabulary": 16, "token_dim": 7}, "token_dim"),
    ],
)
def test_impossible_encoders_are_refused(wrong, named):
    with pytest.raises(ValueError, match=named):
        spec(2, **wrong)
