package measure

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/golowbit/lowbit/checkpoint"
)

const model = "../../testdata/tinyllama-2m"

func open(t *testing.T) *Model {
	src, err := checkpoint.Open(model)
	require.NoError(t, err)
	m, err := Open(src, false, 0)
	require.NoError(t, err)
	t.Cleanup(func() { _ = m.Close() })
	return m
}

// TestTask: log-likelihoods are those of lm-evaluation-harness (testdata/lm_eval.py), of
// contexts that end in a blank, are empty, or are longer than the model's too.
func TestTask(t *testing.T) {
	questions, err := ReadQuestions("testdata/questions.jsonl")
	require.NoError(t, err)
	require.Len(t, questions, 24)
	require.Empty(t, questions[4].Context)
	require.Greater(t, len(questions[5].Context), 1024)
	data, err := os.ReadFile("testdata/lm_eval.json")
	require.NoError(t, err)
	var theirs struct {
		LogLikelihoods [][]float64 `json:"log_likelihoods"`
	}
	require.NoError(t, json.Unmarshal(data, &theirs))
	a, err := Task(t.Context(), open(t), "", questions, 0, nil)
	require.NoError(t, err)
	require.Len(t, a.LogLikelihoods, len(theirs.LogLikelihoods))
	for i, q := range a.LogLikelihoods {
		require.InDeltaSlice(t, theirs.LogLikelihoods[i], q, 1e-4, "question %d", i+1)
	}
	require.Equal(t, 24, a.Questions)
	require.InDelta(t, 9./24, a.Acc, 1e-12)
	require.InDelta(t, 17./24, a.AccNorm, 1e-12)
	require.InDelta(t, 0.1, a.AccError, 0.02)

	// In any order, and by itself.
	last, err := Task(t.Context(), open(t), model, questions[23:], 0, nil)
	require.NoError(t, err)
	require.InDeltaSlice(t, a.LogLikelihoods[23], last.LogLikelihoods[0], 1e-5)
	require.Zero(t, last.AccError)

	// A context of one token and a choice of one: nothing is predicted but what is asked.
	one, err := Task(t.Context(), open(t), "", []Question{{Context: "", Choices: []string{"a", "b"}}}, 0, nil)
	require.NoError(t, err)
	require.Less(t, one.LogLikelihoods[0][0], 0.)
}

// TestReadQuestions: the fields of the harness's tasks, and what is none.
func TestReadQuestions(t *testing.T) {
	path := filepath.Join(t.TempDir(), "q.jsonl")
	for _, c := range []struct{ line, err string }{
		{`{"question": "q", "choices": ["a", "b"], "answer": 1}`, ""},
		{`{"context": "q", "question": "no", "choices": ["a", "b"], "gold": "1"}`, ""},
		{`{"ctx": "q", "endings": ["a", "b"], "label": "1"}`, ""},
		{`{"question": "q", "choices": {"text": ["a", "b"], "label": ["1", "2"]}, "answerKey": "2"}`, ""},
		{`{"query": "q", "choices": ["a", "b"], "answer": "B"}`, ""},
		{`{"choices": ["a", "b"], "answer": 1}`, `none of the fields ["context" "question"`},
		{`{"question": 1, "choices": ["a", "b"], "answer": 1}`, `"question": want a string`},
		{`{"question": "q", "answer": 1}`, `none of the fields ["choices" "endings"]`},
		{`{"question": "q", "choices": ["a"], "answer": 0}`, "want two or more"},
		{`{"question": "q", "choices": ["a", ""], "answer": 0}`, "want two or more that are not empty"},
		{`{"question": "q", "choices": 5, "answer": 0}`, `"choices": want an array of strings`},
		{`{"question": "q", "choices": ["a", "b"]}`, `none of the fields ["answer"`},
		{`{"question": "q", "choices": ["a", "b"], "answer": 2}`, `"answer": 2, want the index, the label or the letter of one of 2 choices`},
		{`{"question": "q", "choices": ["a", "b"], "answer": "C"}`, `"answer": "C", want`},
		{`["a"]`, "want a JSON object"},
	} {
		require.NoError(t, os.WriteFile(path, []byte("\ufeff"+c.line+"\r\n\n"), 0o666))
		all, err := ReadQuestions(path)
		if c.err != "" {
			require.ErrorContains(t, err, path+": line 1: ", c.line)
			require.ErrorContains(t, err, c.err)
			continue
		}
		require.NoError(t, err, c.line)
		require.Equal(t, []Question{{"q", []string{"a", "b"}, 1}}, all)
	}
	require.NoError(t, os.WriteFile(path, nil, 0o666))
	_, err := ReadQuestions(path)
	require.ErrorContains(t, err, "no questions")
}

// TestJob: several models are compared with the last, and each gets what it gets alone.
func TestJob(t *testing.T) {
	windows := [][]int32{{1, 5, 9, 20}, {3, 2, 700}}
	j := &Job{Models: []*Model{open(t), open(t), open(t)}, Windows: windows}
	all, err := j.Run(t.Context())
	require.NoError(t, err)
	require.Len(t, all, 3)
	alone, err := (&Job{Models: []*Model{open(t)}, Windows: windows}).Run(t.Context())
	require.NoError(t, err)
	for i, e := range all {
		require.Equal(t, alone[0].Perplexity, e.Perplexity)
		require.Equal(t, 5, e.Tokens)
		require.Equal(t, 4, e.Window)
		require.Equal(t, i < 2, e.Divergence != nil)
	}
	require.InDelta(t, 0, all[1].Divergence.Maximum, 1e-12)
	require.Equal(t, 1., all[0].SameTop)
}
