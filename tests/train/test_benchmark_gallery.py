from tests.geoclip_files import published_wheel
from train.benchmark_gallery import benchmark_gallery

SMALL = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "patch_size": 14,
}


def test_both_sides_answer_the_same_and_ours_is_faster():
    result = benchmark_gallery(published_wheel(), places=1500, tower=SMALL)
    assert 1400 < result.places < 1700
    assert result.equal_places
    assert result.probability_difference < 1e-3
    assert result.our_query < result.package_query
    text = result.text()
    assert "the same" in text
    assert "geoclip==1.3.0" in text
