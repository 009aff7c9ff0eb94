package tokenizer

import (
	"fmt"
	"regexp"
	"slices"

	"github.com/golowbit/lowbit/internal/tokenizer/sentencepiece"
)

// shiftedClasses are the classes of transformers that give other ids than their
// SentencePiece model, or rewrite text before it.
var shiftedClasses = []string{
	"AlbertTokenizer", "BarthezTokenizer", "BigBirdTokenizer", "CamembertTokenizer", "DebertaV2Tokenizer", "FNetTokenizer",
	"M2M100Tokenizer", "MBart50Tokenizer", "MBartTokenizer", "NllbTokenizer", "PegasusTokenizer", "RemBertTokenizer",
	"XGLMTokenizer", "XLMRobertaTokenizer", "XLNetTokenizer",
}

// tiktokenLine is how the files begin that Llama 3 calls tokenizer.model: bytes in
// base64 and their rank.
var tiktokenLine = regexp.MustCompile(`^[A-Za-z0-9+/]+={0,2} [0-9]+\n`)

// loadSentencePiece reads a SentencePiece model. Control pieces are found in text only
// where the files beside it name them, as SentencePiece itself never reads them.
func loadSentencePiece(dir folder, name string, side *sideFiles) (*Tokenizer, error) {
	if slices.Contains(shiftedClasses, side.class) {
		return nil, fmt.Errorf("%s: a tokenizer of class %s has other ids than its SentencePiece model: save it with transformers as %s",
			dir.path(name), side.class, fileName)
	}
	data, err := dir.read(name)
	if err != nil {
		return nil, err
	}
	if tiktokenLine.Match(data) {
		return nil, fmt.Errorf("%s: a tiktoken vocabulary, no SentencePiece model: save it with transformers as %s", dir.path(name), fileName)
	}
	t, err := parseSentencePiece(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", dir.path(name), err)
	}
	// With "legacy" false only the text's very start has a space put before it, else
	// what follows an added token too.
	if legacy := side.conf.bool("legacy"); legacy == nil || *legacy {
		t.later = nil
	}
	t.wrap = true
	t.special.addBOS, t.special.addEOS = defaultWrap(side.class)
	if side.class == "" && t.Kind() == SentencePiece {
		// A Llama, most likely.
		t.special.addBOS, t.special.addEOS = defaultWrap("LlamaTokenizer")
	}
	return t, nil
}

func parseSentencePiece(data []byte) (*Tokenizer, error) {
	m, err := sentencepiece.Parse(data)
	if err != nil {
		return nil, err
	}
	t := &Tokenizer{special: noSpecialTokens(), scores: m.Scores(), pre: &preTokenizer{metaspace: true}}
	if t.model, err = m.Segmenter(); err != nil {
		return nil, err
	}
	n, err := m.Normalizer()
	if err != nil {
		return nil, err
	}
	t.normalize = func(s string) (string, bool) { return n.Normalize(s, true), true }
	t.later = func(s string) (string, bool) { return n.Normalize(s, false), true }
	decode, err := m.Decoder()
	if err != nil {
		return nil, err
	}
	t.decode = func(tokens []string) []string { return []string{decode(tokens)} }
	t.types = make([]TokenType, len(m.Pieces))
	for id, p := range m.Pieces {
		t.types[id] = pieceTypes[p.Type]
	}
	t.own = map[string]string{"bos": m.BOS, "eos": m.EOS, "pad": m.Pad}
	t.finish(nil)
	return t, nil
}

var pieceTypes = map[sentencepiece.Type]TokenType{
	sentencepiece.Normal: Normal, sentencepiece.Unknown: Unknown, sentencepiece.Control: Control,
	sentencepiece.UserDefined: UserDefined, sentencepiece.Unused: Unused, sentencepiece.Byte: Byte,
}
