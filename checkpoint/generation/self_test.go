package generation_test

import (
	"context"
	"encoding/json"
	"math"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/golowbit/lowbit/checkpoint/generation"
	"github.com/golowbit/lowbit/checkpoint/measure"
	"github.com/golowbit/lowbit/internal/decoder"
	"github.com/golowbit/lowbit/internal/memory"
	"github.com/golowbit/lowbit/tensor"
)

// TestSelf: what a model writes is the same for any number of workers, begins as it is asked to, lies in the
// file, and is taken from there.
func TestSelf(t *testing.T) {
	const seqLen = 48
	keep := filepath.Join(t.TempDir(), "out.text.json")
	s := &generation.Self{Tokens: 5*seqLen - 7, Seed: 3}
	write := func(s *generation.Self, workers int, keep string, again bool) ([][]int32, int) {
		steps := 0
		w, err := s.Write(context.Background(), open(t, tiny, workers), seqLen, 0, keep, again, func(int, int) { steps++ })
		require.NoError(t, err)
		return w, steps
	}
	a, steps := write(s, 1, keep, false)
	require.Len(t, a, 5)
	require.Positive(t, steps)
	data, err := os.ReadFile(keep)
	require.NoError(t, err)
	var lying [][]int32
	require.NoError(t, json.Unmarshal(data, &lying))
	require.Equal(t, a, lying)
	tok, err := measure.Tokenizer(open(t, tiny, 1).Source(), "")
	require.NoError(t, err)
	bos, ok := tok.BOS()
	require.True(t, ok)
	for _, w := range a {
		require.Len(t, w, seqLen)
		require.Equal(t, bos, w[0])
	}
	again, steps := write(s, 1, keep, true)
	require.Equal(t, a, again)
	require.Zero(t, steps)
	b, steps := write(s, 3, "", true)
	require.Equal(t, a, b)
	require.Positive(t, steps)
	other, _ := write(&generation.Self{Tokens: s.Tokens, Seed: 4}, 1, "", false)
	require.NotEqual(t, a, other)
	more, steps := write(&generation.Self{Tokens: 6 * seqLen, Seed: 3}, 1, keep, true)
	require.Len(t, more, 6)
	require.Positive(t, steps, "the file has fewer windows")

	prompted, _ := write(&generation.Self{Tokens: 3 * seqLen, Prompts: []string{"The cat", "Once upon a time"}}, 1, "", false)
	for i, begin := range []string{"The cat", "Once upon a time", "The cat"} {
		ids := tok.Encode(begin)
		require.Equal(t, ids, prompted[i][:len(ids)])
	}
}

// TestSelfIsLikely: drawn at temperature 1, the text is as likely to the model as its own predictions say:
// the mean of -log p is that of their entropies.
func TestSelfIsLikely(t *testing.T) {
	const seqLen, n = 64, 48
	m := open(t, tiny, 2)
	windows, err := (&generation.Self{Tokens: n * seqLen}).Write(context.Background(), m, seqLen, 0, "", false, nil)
	require.NoError(t, err)
	var likelihood, entropy float64
	_, err = (&measure.Job{Models: []*measure.Model{m}, Windows: windows, Logits: func(window, first int, logits *tensor.Matrix) error {
		for i := range logits.Rows {
			if next := first + i + 1; next < seqLen {
				for id := range logits.Cols {
					nll := decoder.NLL(logits.Row(i), int32(id))
					entropy += nll * math.Exp(-nll)
				}
				likelihood += decoder.NLL(logits.Row(i), windows[window][next])
			}
		}
		return nil
	}}).Run(context.Background())
	require.NoError(t, err)
	const predictions = n * (seqLen - 1)
	t.Logf("%.3f nats a token, entropy %.3f", likelihood/predictions, entropy/predictions)
	require.InEpsilon(t, entropy, likelihood, 0.06) // the standard error is about 1.5 %
}

func TestSelfRefused(t *testing.T) {
	s := &generation.Self{Tokens: 64}
	_, err := s.Write(context.Background(), open(t, tiny, 1), 32, 1<<20, "", false, nil)
	require.ErrorIs(t, err, memory.ErrTooLittle)
	ctx, cancel := context.WithCancel(context.Background())
	keep := filepath.Join(t.TempDir(), "out.text.json")
	_, err = s.Write(ctx, open(t, tiny, 1), 32, 0, keep, false, func(int, int) { cancel() })
	require.ErrorIs(t, err, context.Canceled)
	require.NoFileExists(t, keep)
}
