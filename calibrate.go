package lowbit

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"strings"

	"github.com/golowbit/lowbit/checkpoint"
	"github.com/golowbit/lowbit/internal/llama"
	"github.com/golowbit/lowbit/internal/tokenizer"
)

const (
	defaultSamples = 128
	defaultSeqLen  = 2048
)

// calibrationText is the windows of text that layers are observed on.
type calibrationText struct {
	seqLen  int
	windows [][]int32
}

func (c *calibrationText) tokens() int { return len(c.windows) * c.seqLen }

// digest identifies the windows.
func (c *calibrationText) digest() string {
	h := sha256.New()
	var buf []byte
	for _, w := range c.windows {
		buf = buf[:0]
		for _, id := range w {
			buf = binary.LittleEndian.AppendUint32(buf, uint32(id))
		}
		h.Write(buf)
	}
	return hex.EncodeToString(h.Sum(nil)[:16])
}

// contextLength is n, or if that is 0 what suits the model.
func contextLength(cfg *llama.Config, n int) int {
	if n == 0 {
		n = defaultSeqLen
		if cfg.MaxPosition > 0 {
			n = min(n, cfg.MaxPosition)
		}
	}
	return n
}

func readCalibration(m *checkpoint.Model, cfg *llama.Config, c Calibration) (*calibrationText, error) {
	t := &calibrationText{seqLen: contextLength(cfg, c.SeqLen)}
	if cfg.MaxPosition > 0 && t.seqLen > cfg.MaxPosition {
		return nil, fmt.Errorf("%w: calibration windows of %d tokens, but the model's context is %d", ErrOptions, t.seqLen, cfg.MaxPosition)
	}
	ids, err := tokens(m, "", cfg, c.Text)
	if err != nil {
		return nil, err
	}
	all := windows(ids, t.seqLen)
	if len(all) == 0 {
		return nil, fmt.Errorf("%s: %d tokens of calibration text, want at least one window of %d", strings.Join(c.Files, ", "), len(ids), t.seqLen)
	}
	n := c.Samples
	if n == 0 {
		n = defaultSamples
	}
	t.windows = spread(all, n)
	return t, nil
}

// openTokenizer opens the tokenizer in dir, or the model's own if dir is "".
func openTokenizer(m *checkpoint.Model, dir string) (*tokenizer.Tokenizer, error) {
	if dir != "" {
		return tokenizer.Open(dir)
	}
	t, err := tokenizer.OpenFS(m.Files())
	if err != nil {
		return nil, fmt.Errorf("%s: tokenizer: %w", m.Path(), err)
	}
	return t, nil
}

// tokens encodes text files for a model.
func tokens(m *checkpoint.Model, dir string, cfg *llama.Config, text Text) ([]int32, error) {
	tok, err := openTokenizer(m, dir)
	if err != nil {
		return nil, err
	}
	texts, err := readTexts(text.Files)
	if err != nil {
		return nil, err
	}
	ids := stream(tok, texts, text.PerDocument)
	for _, id := range ids {
		if int(id) >= cfg.Vocab {
			name, _ := tok.Token(id)
			return nil, fmt.Errorf("%s: tokenizer: token %q has id %d, but the model knows only %d", m.Path(), name, id, cfg.Vocab)
		}
	}
	return ids, nil
}
