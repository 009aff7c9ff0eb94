package sentencepiece

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/golowbit/lowbit/internal/tokenizer/model"
)

// maxPiece bounds the bytes of a piece, and with them the work of finding merges.
// SentencePiece's own limit is 16 characters unless it is raised.
const maxPiece = 1024

// Segmenter is the model that turns normalized text into ids.
func (m *Model) Segmenter() (model.Model, error) {
	tokens := make([]string, len(m.Pieces))
	for i, p := range m.Pieces {
		tokens[i] = p.Text
	}
	vocab := model.NewVocabList(tokens)
	switch m.Algorithm {
	case BPE:
		return m.bpe(vocab)
	case Unigram:
		return m.unigram(vocab)
	}
	return nil, fmt.Errorf("model_type %v is not supported (supported: %v, %v)", m.Algorithm, BPE, Unigram)
}

// Scores are the scores of the pieces by id.
func (m *Model) Scores() []float32 {
	scores := make([]float32, len(m.Pieces))
	for i, p := range m.Pieces {
		scores[i] = p.Score
	}
	return scores
}

func (m *Model) unigram(vocab *model.Vocab) (model.Model, error) {
	c := model.UnigramConfig{Vocab: vocab, Unknown: m.unknown, ByteFallback: m.ByteFallback, Single: true}
	for id, p := range m.Pieces {
		c.Scores = append(c.Scores, float64(p.Score))
		switch p.Type {
		case Normal:
		case UserDefined:
			c.Whole = append(c.Whole, int32(id))
		default:
			c.LeaveOut = append(c.LeaveOut, int32(id))
		}
	}
	return model.NewUnigram(c)
}

// bpe lists as merges all pairs of pieces that make a piece. The neighbours whose
// union has the highest score merge first, of equals the leftmost.
func (m *Model) bpe(vocab *model.Vocab) (model.Model, error) {
	c := model.BPEConfig{
		Vocab: vocab, Unknown: m.Pieces[m.unknown].Text, FuseUnknown: true, ByteFallback: m.ByteFallback,
	}
	var ids []int32
	for i, p := range m.Pieces {
		id := int32(i)
		switch p.Type {
		case Unused:
			c.Split = append(c.Split, id)
		case UserDefined:
			c.Whole = append(c.Whole, p.Text)
		case Normal:
		default:
			continue
		}
		if len(p.Text) > maxPiece {
			return nil, fmt.Errorf("piece %d has %d bytes, want at most %d", id, len(p.Text), maxPiece)
		}
		ids = append(ids, id)
	}
	slices.SortStableFunc(ids, func(a, b int32) int { return cmp.Compare(m.Pieces[b].Score, m.Pieces[a].Score) })
	texts, ranks := make([]string, len(ids)), make([]uint32, len(ids))
	for i, id := range ids {
		texts[i], ranks[i] = m.Pieces[id].Text, uint32(i)
		if i > 0 && m.Pieces[id].Score == m.Pieces[ids[i-1]].Score {
			ranks[i] = ranks[i-1]
		}
	}
	c.Merges, c.Ranks = model.Pairs(texts, ranks)
	return model.NewBPE(c)
}
