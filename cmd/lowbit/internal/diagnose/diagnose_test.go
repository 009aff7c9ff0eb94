package diagnose

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/golowbit/lowbit"
	"github.com/golowbit/lowbit/checkpoint/diagnosis"
)

const (
	model   = "../../../../testdata/tinyllama-2m"
	heldOut = "../../../../testdata/tinyllama-2m-text/heldout.txt"
)

func texts() []Text {
	return []Text{{"stories", lowbit.Text{Files: []string{heldOut}}}, {Random, lowbit.Text{}}}
}

// form is the keys of a JSON value, and of a list those of its first element.
func form(v any) any {
	switch v := v.(type) {
	case map[string]any:
		keys := map[string]any{}
		for k, e := range v {
			keys[k] = form(e)
		}
		return keys
	case []any:
		if len(v) == 0 {
			return []any{}
		}
		return []any{form(v[0])}
	case float64:
		return "number"
	case string:
		return "text"
	}
	return v
}

// TestRun: all that is promised is there, in JSON of a form that stays, and the result is what
// Quantize and Evaluate give one by one.
func TestRun(t *testing.T) {
	temp := t.TempDir()
	t.Setenv("TMPDIR", temp)
	phases := map[string]int{}
	o := Options{Model: model, Texts: texts(), Samples: 2, SeqLen: 64, Idle: 0.3, Method: "rtn", Bits: 3, Events: func(e lowbit.Event) { phases[e.Message] = e.Done }}
	r, err := Run(t.Context(), o)
	require.NoError(t, err)
	left, err := os.ReadDir(temp)
	require.NoError(t, err)
	require.Empty(t, left)
	require.Equal(t, map[string]int{
		"looking at stories": 4, "looking at random": 4, "the model itself: reading stories": 4, "the model itself: reading random": 4,
		"quantizing on stories": 28, "quantizing on random": 28, "quantized on stories: reading stories": 4, "quantized on stories: reading random": 4,
		"quantized on random: reading stories": 4, "quantized on random: reading random": 4,
	}, phases)

	data, err := json.Marshal(r)
	require.NoError(t, err)
	var got, want any
	require.NoError(t, json.Unmarshal(data, &got))
	golden, err := os.ReadFile("testdata/form.json")
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(golden, &want))
	require.Equal(t, want, form(got))

	q := r.Quantized
	require.Len(t, q.Layers, 28)
	require.Zero(t, q.Moved[0])
	require.Zero(t, q.Apart(0))
	require.Positive(t, q.Apart(1))
	require.Greater(t, q.Perplexities[0][0], q.Full[0])
	require.Greater(t, q.Full[1], 10*q.Full[0], "tokens drawn at random")
	s := r.Texts[0].Summary()
	require.Equal(t, 32, s.Heads)
	require.NotEmpty(t, r.Texts[0].IdleHeads)
	require.Contains(t, s.LargestAt, "model.layers.")

	// By hand: windows 0 and 2 of four that are spread over the text, read on 1 and 3.
	out := filepath.Join(temp, "out")
	w := spread(t, o)
	_, err = lowbit.Quantize(t.Context(), o.quantization("", out, w.calibration))
	require.NoError(t, err)
	e, err := lowbit.Evaluate(t.Context(), lowbit.EvalOptions{Model: out, Text: lowbit.Text{IDs: w.heldOut}, Sequences: true})
	require.NoError(t, err)
	require.InEpsilon(t, e.Perplexity, q.Perplexities[0][0], 1e-9)
	for _, ids := range w.calibration {
		require.False(t, slices.ContainsFunc(w.heldOut, func(o []int32) bool { return slices.Equal(o, ids) }))
	}

	var table bytes.Buffer
	require.NoError(t, r.Print(&table))
	require.Regexp(t, `(?m)^text +tokens +separators +‖x‖∞ `, table.String())
	require.Regexp(t, `(?m)^random +128 +\d+ % +\d`, table.String())
	require.Regexp(t, `(?m)^idle heads on stories: \d\.\d \(\d+ % first`, table.String())
	require.Regexp(t, `(?m)^\(not quantized\) +[\d.]+ +[\d.e+]+ *$`, table.String())
	require.Regexp(t, `(?m)^stories +[\d.]+ +[\d.e+]+ +\d+ of 28 +0 +0\.000$`, table.String())
}

// spread are the windows of the first text.
func spread(t *testing.T, o Options) windows {
	t.Helper()
	m, err := o.open()
	require.NoError(t, err)
	defer m.Close()
	w, err := o.windows(m, o.Texts[0])
	require.NoError(t, err)
	return w
}

func TestActivationsOnly(t *testing.T) {
	r, err := Run(t.Context(), Options{Model: "../../../../testdata/architectures/mamba", Texts: []Text{{Random, lowbit.Text{}}}, Samples: 1, SeqLen: 8})
	require.NoError(t, err)
	require.Nil(t, r.Quantized)
	require.Empty(t, r.Texts[0].Heads)
	data, err := json.Marshal(r)
	require.NoError(t, err)
	require.NotContains(t, string(data), "null")
	require.NotContains(t, string(data), "quantized")
}

func TestRefused(t *testing.T) {
	short := filepath.Join(t.TempDir(), "short.txt")
	require.NoError(t, os.WriteFile(short, []byte("Once upon a time."), 0o666))
	base := Options{Model: model, Texts: texts(), Samples: 1, SeqLen: 16, Method: "rtn", Bits: 4}
	for name, c := range map[string]struct {
		change func(o *Options)
		want   string
	}{
		"no model":   {func(o *Options) { o.Model = "absent" }, "absent"},
		"no file":    {func(o *Options) { o.Texts[0].Files = []string{"absent.txt"} }, "absent.txt"},
		"short":      {func(o *Options) { o.Texts[0].Files = []string{short} }, "short.txt: 7 tokens of text, want at least two windows of 16"},
		"context":    {func(o *Options) { o.SeqLen = 4096 }, "the model's context is 256"},
		"bits":       {func(o *Options) { o.Bits = 9 }, "bits 9, want 2 to 8"},
		"little":     {func(o *Options) { o.Memory = 1 << 20 }, "memory"},
		"group size": {func(o *Options) { o.GroupSize = -3 }, "-3"},
	} {
		t.Run(name, func(t *testing.T) {
			o := base
			o.Texts = texts()
			c.change(&o)
			_, err := Run(t.Context(), o)
			require.ErrorContains(t, err, c.want)
		})
	}
}

// TestCancelled: whatever it is about, it stops, and leaves nothing behind.
func TestCancelled(t *testing.T) {
	for _, at := range []string{"looking at", "reading", "quantizing on"} {
		t.Run(at, func(t *testing.T) {
			temp := t.TempDir()
			t.Setenv("TMPDIR", temp)
			ctx, cancel := context.WithCancel(t.Context())
			o := Options{Model: model, Texts: texts(), Samples: 1, SeqLen: 16, Method: "rtn", Bits: 4, Events: func(e lowbit.Event) {
				if strings.Contains(e.Message, at) {
					cancel()
				}
			}}
			_, err := Run(ctx, o)
			require.ErrorIs(t, err, context.Canceled)
			left, err := os.ReadDir(temp)
			require.NoError(t, err)
			require.Empty(t, left)
		})
	}
}

func TestApart(t *testing.T) {
	all, err := Apart(lowbit.Text{Files: []string{"a/x.txt", "b/x.txt", "random", "random.txt", "y"}, Readers: []io.Reader{strings.NewReader("")}, Field: "f"})
	require.NoError(t, err)
	var names []string
	for _, one := range all {
		names = append(names, one.Name)
		require.Equal(t, "f", one.Field)
		require.Equal(t, 1, len(one.Files)+len(one.Readers))
	}
	require.Equal(t, []string{"x", "b/x.txt", Random, "random.txt", "y", "standard input"}, names)
}

func TestCommon(t *testing.T) {
	of := func(channels ...int) Seen {
		s := Seen{Seen: &diagnosis.Seen{}}
		for _, c := range channels {
			s.Features.List = append(s.Features.List, diagnosis.Feature{Channel: c})
		}
		return s
	}
	r := &Result{Texts: []Seen{of(1, 2, 9), of(2, 9), of(9, 2, 4)}}
	require.Equal(t, 2, r.Common())
}
