package main

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/golowbit/lowbit/internal/gguf"
	"github.com/golowbit/lowbit/internal/tokenizer"
	"github.com/golowbit/lowbit/internal/verified"
)

// TestFollow: the likeliest tokens are no distance from the likeliest, others are far, and
// tokens that are not counted as ours or not in the vocabulary are faults.
func TestFollow(t *testing.T) {
	tok, err := tokenizer.Open(model)
	require.NoError(t, err)
	w := &written{path: model, source: model}
	ids := tok.Encode(prompts[0])
	a := answered{prompt: prompts[0], asked: len(ids)}
	if bos, ok := tok.BOS(); ok && tok.AddsBOS() {
		ids, a.asked = append([]int32{bos}, ids...), a.asked+1
	}
	for range answerTokens {
		m, err := logits(t.Context(), model, [][]int32{ids}, nil)
		require.NoError(t, err)
		row := m.Row(m.Rows - 1)
		id := int32(slices.Index(row, slices.Max(row)))
		ids, a.pieces = append(ids, id), append(a.pieces, tok.Decode([]int32{id}))
	}
	distance := func(a answered) verified.Result {
		var r verified.Result
		require.NoError(t, follow(t.Context(), &r, w, []answered{a}, false))
		return r
	}
	require.Zero(t, distance(a))

	other := a
	other.pieces = slices.Clone(a.pieces)
	other.pieces[7] = other.pieces[3]
	require.Greater(t, distance(other).Difference, 1.0)

	other.pieces[7] = "no such token"
	require.Contains(t, distance(other).Error, "no such token")

	other = a
	other.asked++
	require.Contains(t, distance(other).Error, "tokens, want")

	other = a
	other.pieces = a.pieces[:5]
	require.Contains(t, distance(other).Error, "5 tokens, want")
	other.ended = true
	require.Greater(t, distance(other).Difference, 1.0, "the end of the answer, too, is a choice")
}

// TestAnswer: a stream is read token after token, and its errors are told.
func TestAnswer(t *testing.T) {
	var asked map[string]any
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked = nil
		if err := json.NewDecoder(r.Body).Decode(&asked); err != nil {
			t.Error(err)
		}
		switch {
		case asked["model"] == "broken":
			_, _ = w.Write([]byte(`{"error":"no such tensor"}`))
		case r.URL.Path == "/api/chat":
			_, _ = w.Write([]byte(`{"message":{"content":" a"}}{"message":{"content":""},"done":true,"done_reason":"length","prompt_eval_count":9}`))
		default:
			_, _ = w.Write([]byte(`{"response":" a"}{"response":" b"}{"done":true,"done_reason":"stop","prompt_eval_count":3}`))
		}
	}))
	defer s.Close()
	o := &ollama{url: s.URL}
	a, err := o.answer(t.Context(), "m", "x")
	require.NoError(t, err)
	require.Equal(t, answered{prompt: "x", pieces: []string{" a", " b"}, ended: true, asked: 3}, a)
	require.Equal(t, true, asked["raw"])
	a, err = o.answer(t.Context(), "m", "")
	require.NoError(t, err)
	require.Equal(t, answered{pieces: []string{" a"}, asked: 9}, a)
	_, err = o.answer(t.Context(), "broken", "x")
	require.ErrorContains(t, err, "no such tensor")
}

// TestUnlike: what a parser finds otherwise is told.
func TestUnlike(t *testing.T) {
	path := filepath.Join(t.TempDir(), "m.gguf")
	tensors := []gguf.Tensor{{Name: "a", Type: gguf.F32, Dims: []int{4, 2}}}
	w, err := gguf.Create(path, []gguf.KV{{Key: "general.architecture", Value: "llama"}}, tensors)
	require.NoError(t, err)
	require.NoError(t, w.Append("a", make([]byte, 32)))
	require.NoError(t, w.Close())
	find := func(change func(*parsed)) string {
		var p parsed
		require.NoError(t, json.Unmarshal([]byte(`{"keys":["general.architecture","general.parameter_count"],"template":"chatml",
			"tensors":[{"name":"a","kind":0,"shape":[4,2],"bytes":32,"offset":0}]}`), &p))
		change(&p)
		said, err := p.unlike(path)
		require.NoError(t, err)
		return said
	}
	require.Empty(t, find(func(*parsed) {}))
	require.Contains(t, find(func(p *parsed) { p.Error = "bad magic" }), "bad magic")
	require.Contains(t, find(func(p *parsed) { p.Keys = p.Keys[1:] }), "keys")
	require.Contains(t, find(func(p *parsed) { p.Template = "zephyr" }), "zephyr")
	require.Contains(t, find(func(p *parsed) { p.Tensors = nil }), "0 tensors, want 1")
	require.Contains(t, find(func(p *parsed) { p.Tensors[0].Offset = 32 }), "finds")
	require.Contains(t, find(func(p *parsed) { p.Tensors[0].Kind = gguf.F16 }), "finds")
}
