package generation_test

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/golowbit/lowbit/checkpoint"
	"github.com/golowbit/lowbit/checkpoint/generation"
	"github.com/golowbit/lowbit/checkpoint/measure"
	"github.com/golowbit/lowbit/internal/memory"
)

const tiny = "../../testdata/tinyllama-2m"

func open(t *testing.T, path string, workers int) *measure.Model {
	t.Helper()
	src, err := checkpoint.Open(path)
	require.NoError(t, err)
	m, err := measure.Open(src, false, workers)
	require.NoError(t, err)
	t.Cleanup(func() { m.Close() })
	return m
}

// TestLikeliest: what transformers 5.24 writes with do_sample=False, in float32.
func TestLikeliest(t *testing.T) {
	m := open(t, tiny, 2)
	for prompt, want := range map[string]string{
		"Once upon a time": ", there was a little girl named lily. She loved to play with her toys and eat candy. One day, lily's mom asked her to take her to the park.\n\"Thank you, lily,\"",
		"The cat":          " was so happy. They had a great day together.\n\nonce upon a time, there was a little girl named lily. she loved to play with her toys and eat cookies. one day, lily's mom asked her",
	} {
		var told strings.Builder
		w, err := generation.Run(context.Background(), m, generation.Options{Prompt: prompt, MaxTokens: 48, Told: func(piece string) error {
			told.WriteString(piece)
			return nil
		}})
		require.NoError(t, err)
		require.Equal(t, want, w.Text)
		require.Equal(t, want, told.String())
		require.Equal(t, 48, w.Tokens)
		require.False(t, w.Ended)
		require.Positive(t, w.PerSecond())
	}
}

// TestDrawn: a seed decides, whatever the number of workers.
func TestDrawn(t *testing.T) {
	texts := map[string]bool{}
	for seed := range uint64(4) {
		o := generation.Options{Prompt: "Once", MaxTokens: 30, Temperature: 1, TopK: 50, TopP: 0.9, Seed: seed}
		a, err := generation.Run(context.Background(), open(t, tiny, 1), o)
		require.NoError(t, err)
		b, err := generation.Run(context.Background(), open(t, tiny, 3), o)
		require.NoError(t, err)
		require.Equal(t, a.Text, b.Text)
		texts[a.Text] = true
	}
	require.Greater(t, len(texts), 1)
}

func TestEnds(t *testing.T) {
	first, err := generation.Run(context.Background(), open(t, tiny, 1), generation.Options{Prompt: "The cat", MaxTokens: 3})
	require.NoError(t, err)
	require.Equal(t, " was so happy", first.Text)
	for _, ends := range []string{"447", "[5, 447]"} { // " happy"
		dir := t.TempDir()
		require.NoError(t, os.CopyFS(dir, os.DirFS(tiny)))
		require.NoError(t, os.WriteFile(filepath.Join(dir, "generation_config.json"), []byte(`{"eos_token_id": `+ends+`}`), 0o666))
		w, err := generation.Run(context.Background(), open(t, dir, 1), generation.Options{Prompt: "The cat", MaxTokens: 30})
		require.NoError(t, err)
		require.True(t, w.Ended)
		require.Equal(t, " was so", w.Text)
	}
}

func TestChat(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, os.CopyFS(dir, os.DirFS(tiny)))
	const template = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}{% if add_generation_prompt %}assistant:{% endif %}"
	require.NoError(t, os.WriteFile(filepath.Join(dir, "chat_template.jinja"), []byte(template), 0o666))
	o := generation.Options{Prompt: "Who is Lily?", Chat: true, System: "You are a cat.", MaxTokens: 8}
	w, err := generation.Run(context.Background(), open(t, dir, 1), o)
	require.NoError(t, err)
	o.System = ""
	short, err := generation.Run(context.Background(), open(t, dir, 1), o)
	require.NoError(t, err)
	require.Greater(t, w.PromptTokens, short.PromptTokens)
	by := generation.Options{Prompt: "user: Who is Lily?\nassistant:", MaxTokens: 8}
	plain, err := generation.Run(context.Background(), open(t, dir, 1), by)
	require.NoError(t, err)
	require.Equal(t, plain.PromptTokens, short.PromptTokens)
	require.Equal(t, plain.Text, short.Text)
	_, err = generation.Run(context.Background(), open(t, tiny, 1), o)
	require.ErrorContains(t, err, "no chat template")
}

func TestRefused(t *testing.T) {
	m := open(t, tiny, 1)
	good := generation.Options{Prompt: "Once", MaxTokens: 4}
	for name, change := range map[string]func(*generation.Options){
		"tokens":      func(o *generation.Options) { o.MaxTokens = 0 },
		"temperature": func(o *generation.Options) { o.Temperature = -1 },
		"top-p":       func(o *generation.Options) { o.TopP = 1.5 },
		"top-k":       func(o *generation.Options) { o.TopK = -1 },
		"system":      func(o *generation.Options) { o.System = "x" },
		"context":     func(o *generation.Options) { o.Prompt = strings.Repeat("Once upon a time ", 200) },
	} {
		o := good
		change(&o)
		_, err := generation.Run(context.Background(), m, o)
		require.ErrorIs(t, err, generation.ErrOptions, name)
	}
	o := good
	o.Memory = 1 << 20
	_, err := generation.Run(context.Background(), m, o)
	require.ErrorIs(t, err, memory.ErrTooLittle)
	o = good
	o.Tokenizer = t.TempDir()
	_, err = generation.Run(context.Background(), m, o)
	require.ErrorIs(t, err, fs.ErrNotExist)
	o = good
	broken := errors.New("broken pipe")
	o.Told = func(string) error { return broken }
	_, err = generation.Run(context.Background(), m, o)
	require.ErrorIs(t, err, broken)
}

// TestCancelled: what was written is there beside the error.
func TestCancelled(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	w, err := generation.Run(ctx, open(t, tiny, 1), generation.Options{Prompt: "Once", MaxTokens: 200, Told: func(string) error {
		cancel()
		return nil
	}})
	require.ErrorIs(t, err, context.Canceled)
	require.NotEmpty(t, w.Text)
	require.Less(t, w.Tokens, 200)
}
