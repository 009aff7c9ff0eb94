package modelcard

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/golowbit/lowbit/checkpoint"
	"github.com/golowbit/lowbit/checkpoint/formats/autogptq"
	"github.com/golowbit/lowbit/checkpoint/formats/ggufmodel"
	"github.com/golowbit/lowbit/checkpoint/formats/native"
	"github.com/golowbit/lowbit/checkpoint/layout"
	"github.com/golowbit/lowbit/checkpoint/measure"
	"github.com/golowbit/lowbit/internal/told"
)

const embedded = "../../testdata/tinyllama-2m"

// model is the model of this repository with another card, in a folder of that name.
func model(t *testing.T, dir, card string) *checkpoint.Model {
	t.Helper()
	require.NoError(t, os.MkdirAll(dir, 0o777))
	for _, name := range []string{"config.json", "model.safetensors"} {
		data, err := os.ReadFile(filepath.Join(embedded, name))
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), data, 0o666))
	}
	if card != "" {
		require.NoError(t, os.WriteFile(filepath.Join(dir, fileName), []byte(card), 0o666))
	}
	m, err := checkpoint.Open(dir)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, m.Close()) })
	return m
}

func written(t *testing.T, src *checkpoint.Model, m Made) string {
	t.Helper()
	dir := t.TempDir()
	require.NoError(t, Write(dir, src, m))
	data, err := os.ReadFile(filepath.Join(dir, fileName))
	require.NoError(t, err)
	return string(data)
}

const sourceCard = "---\r\nlicense: apache-2.0\r\nlanguage:\r\n- en\r\n- \"no\"\r\nbase_model: someone/else\r\ntags: [chat]\r\nmodel-index:\r\n- name: x\r\nextra_gated_prompt: give me\r\n---\r\n\r\n# Tiny\r\n\r\nIt tells stories.\r\n"

func TestCard(t *testing.T) {
	snapshot := filepath.Join(t.TempDir(), "models--org--Tiny", "snapshots", "0123abc")
	against, kl := 10.25, 0.0625
	made := Made{
		Format: autogptq.Format{}, Bits: 4.125, Before: 5_000_000, Tokens: 4096,
		Settings: []told.Setting{
			{Name: "bits", Value: 4, From: "given"}, {Name: "workers", Value: 7, From: "given"}, {Name: "parameters", Value: json.RawMessage(`{"a":"x|y"}`), From: "preset best"},
			{Name: "importance_matrix", Value: "/home/me/imatrix.gguf", From: "given"}, {Name: "target", Value: "", From: "default"},
		},
		Engines:    []layout.Note{{Engine: "vLLM", Accepted: true, Versions: "0.9"}, {Engine: "llama.cpp"}},
		Evaluation: &measure.Evaluation{Perplexity: 10.5, Against: &against, KL: &kl, Tokens: 255, Window: 128},
	}
	src := model(t, snapshot, sourceCard)
	card := written(t, src, made)
	front, text, ok := strings.Cut(strings.TrimPrefix(card, "---\n"), "---\n")
	require.True(t, ok)
	require.Equal(t, `license: apache-2.0
language:
    - en
    - "no"
base_model: org/Tiny
base_model_relation: quantized
library_name: transformers
pipeline_tag: text-generation
tags:
    - chat
    - lowbit
    - gptq
`, front)
	require.Equal(t, "\n# Tiny, quantized\n\n[org/Tiny](https://huggingface.co/org/Tiny) at commit `0123abc`, quantized by [lowbit](https://github.com/golowbit/lowbit).\n\n"+
		`| | |
|---|---|
| format | gptq |
| bits | 4.125 a weight of the quantized layers, scales counted |
| calibrated on | 4096 tokens |
| loaded by | lowbit, vLLM 0.9 |
| perplexity | 10.5000, before 10.2500 |
| KL divergence | 0.06250 nats a token |
| measured on | 255 tokens, in windows of 128 |

| setting | value | from |
|---|---|---|
| bits | 4 | given |
| parameters | {"a":"x\|y"} | preset best |
| importance_matrix | imatrix.gguf | given |

## The model card of org/Tiny

# Tiny

It tells stories.
`, text)
	// It can be read again, and its own text goes below the next.
	again, body := split([]byte(card))
	require.Equal(t, "org/Tiny", again["base_model"])
	require.Equal(t, strings.TrimSpace(text), strings.TrimSpace(string(body)))
}

// TestCardFolder: of a folder it is not known what it is on the hub; its own card may say.
func TestCardFolder(t *testing.T) {
	for _, c := range []struct{ card, front, body string }{
		{sourceCard, "base_model: someone/else\n", "\n## The model card of the model it was made of\n\n# Tiny\n\nIt tells stories.\n"},
		{"", "library_name: lowbit\npipeline_tag: text-generation\ntags:\n    - lowbit\n---\n", "| loaded by | lowbit |\n"},
		{"# no front", "---\nlibrary_name: lowbit\n", "\n\n# no front\n"},
		{"---\n[\n---\nx", "---\nlibrary_name: lowbit\n", "\n\n---\n[\n---\nx\n"},
		{"---\nlicense: mit\n---", "license: mit\n", "| loaded by | lowbit |\n"},
		{"---\n- a\n---\nx", "---\nlibrary_name: lowbit\n", "\n\n---\n- a\n---\nx\n"},
	} {
		card := written(t, model(t, filepath.Join(t.TempDir(), "secret-name"), c.card), Made{Format: native.Format{}})
		require.Contains(t, card, c.front)
		require.True(t, strings.HasSuffix(card, c.body), card)
		require.Contains(t, card, "\n# A converted model\n\nConverted by [lowbit]")
		require.NotContains(t, card, "secret-name")
	}
	file := filepath.Join(t.TempDir(), "out.gguf")
	require.NoError(t, os.WriteFile(file, nil, 0o666))
	require.NoError(t, Write(file, model(t, t.TempDir(), ""), Made{Format: ggufmodel.Format{}}))
	data, err := os.ReadFile(file)
	require.NoError(t, err)
	require.Empty(t, data)
}
