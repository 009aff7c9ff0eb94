package tokenizer

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"maps"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// components.json holds small tokenizers, each with another choice of
// components over one of two models, and what Hugging Face's tokenizers 0.23.2
// makes of texts with them.
type componentsFile struct {
	Models   map[string]json.RawMessage `json:"models"`
	Variants []struct {
		Name          string                     `json:"name"`
		Base          string                     `json:"base"`
		AddedTokens   json.RawMessage            `json:"added_tokens"`
		Normalizer    json.RawMessage            `json:"normalizer"`
		PreTokenizer  json.RawMessage            `json:"pre_tokenizer"`
		PostProcessor json.RawMessage            `json:"post_processor"`
		Decoder       json.RawMessage            `json:"decoder"`
		Model         map[string]json.RawMessage `json:"model"` // overrides
		Cases         []struct {
			Text    string  `json:"text"`
			IDs     []int32 `json:"ids"`
			Special []int32 `json:"special"` // with what the post-processor adds
			Extra   []int32 `json:"extra"`   // further ids to decode
			Decoded string  `json:"decoded"`
		} `json:"cases"`
	} `json:"variants"`
}

func TestComponents(t *testing.T) {
	data, err := os.ReadFile(filepath.Join("testdata", "components.json"))
	require.NoError(t, err)
	if f := os.Getenv("LOWBIT_COMPONENTS"); f != "" {
		data, err = os.ReadFile(f)
		require.NoError(t, err)
	}
	var f componentsFile
	require.NoError(t, json.Unmarshal(data, &f))
	require.Greater(t, len(f.Variants), 50)

	var tiny struct {
		Model json.RawMessage `json:"model"`
	}
	raw, err := os.ReadFile(filepath.Join("testdata", "tinyllama-2m", fileName))
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(raw, &tiny))
	f.Models["bytelevel"] = tiny.Model

	f.check(t)
}

// TestKinds is TestComponents for the models of testdata/trained.
func TestKinds(t *testing.T) {
	data, err := os.ReadFile(filepath.Join("testdata", "kinds.json"))
	require.NoError(t, err)
	proto, err := os.ReadFile(filepath.Join("testdata", "trained", "sentencepiece-unigram-nmt", "tokenizer.model"))
	require.NoError(t, err)
	// The compiled map of characters is the field after the name of the rules.
	_, rest, ok := bytes.Cut(proto, []byte("nmt_nfkc\x12"))
	require.True(t, ok)
	size, n := binary.Uvarint(rest)
	charsmap := base64.StdEncoding.EncodeToString(rest[n : n+int(size)])
	data = bytes.ReplaceAll(data, []byte("$charsmap"), []byte(charsmap))
	f := componentsFile{Models: map[string]json.RawMessage{}}
	require.NoError(t, json.Unmarshal(data, &f))
	require.Len(t, f.Variants, 45)
	for _, v := range f.Variants {
		raw, err := os.ReadFile(filepath.Join("testdata", "trained", v.Base, fileName))
		require.NoError(t, err)
		var file fileJSON
		require.NoError(t, json.Unmarshal(raw, &file))
		f.Models[v.Base] = file.Model
	}
	f.check(t)
}

func (f *componentsFile) check(t *testing.T) {
	for _, v := range f.Variants {
		t.Run(v.Name, func(t *testing.T) {
			var model map[string]json.RawMessage
			require.NoError(t, json.Unmarshal(f.Models[v.Base], &model))
			maps.Copy(model, v.Model)
			text, err := json.Marshal(map[string]any{
				"version": "1.0", "added_tokens": v.AddedTokens, "normalizer": v.Normalizer,
				"pre_tokenizer": v.PreTokenizer, "post_processor": v.PostProcessor, "decoder": v.Decoder, "model": model,
			})
			require.NoError(t, err)
			tk, err := Parse(text)
			require.NoError(t, err)
			require.NotEmpty(t, v.Cases)
			for _, c := range v.Cases {
				require.Equal(t, append([]int32{}, c.IDs...), append([]int32{}, tk.Encode(c.Text)...), "text %q", c.Text)
				want := c.Special
				if want == nil {
					want = c.IDs
				}
				require.Equal(t, append([]int32{}, want...), append([]int32{}, tk.EncodeSpecial(c.Text)...), "text %q", c.Text)
				ids := append(append([]int32{}, c.IDs...), c.Extra...)
				require.Equal(t, c.Decoded, tk.Decode(ids), "text %q, ids %v", c.Text, ids)
			}
		})
	}
}
