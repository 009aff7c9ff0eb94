package vocab

import (
	"cmp"
	"encoding/json"
	"math/rand/v2"
	"slices"
	"strings"

	"golang.org/x/text/unicode/norm"

	"github.com/golowbit/lowbit/checkpoint/layout"
	"github.com/golowbit/lowbit/internal/tokenizer"
)

// preTokenizerName finds llama.cpp's pre-tokenizer that does what the tokenizer's does:
// that splits all sample texts alike, or as the one that llama.cpp's stands for.
func preTokenizerName(t *tokenizer.Tokenizer) (string, error) {
	texts := sampleTexts()
	nfc := false
	for _, s := range texts {
		n := t.Normalize(s)
		if n != s && n != norm.NFC.String(s) {
			return "", layout.Unsupported("its normalizer makes %q of %q: llama.cpp has none for byte-level BPE", n, s)
		}
		nfc = nfc || n != s
	}
	takes, matters := t.TakesWholePieces()
	flags := func(p *preTokenizer) bool { return !p.raw() && (!matters || p.ignoreMerges == takes) }
	splits := false
	all := preTokenizers()
	slices.SortStableFunc(all, func(a, b preTokenizer) int { return cmp.Compare(nfcRank(a.nfc != nfc), nfcRank(b.nfc != nfc)) })
	for _, p := range all {
		if p.raw() {
			continue
		}
		for _, form := range p.forms() {
			raw, err := json.Marshal(form)
			if err != nil {
				return "", err
			}
			other, err := t.WithPreTokenizer(raw)
			if err != nil {
				return "", err
			}
			if !alike(texts, func(s string) bool { return slices.Equal(t.Pieces(s), other.Pieces(s)) }) {
				continue
			}
			if flags(&p) {
				name, _, _ := strings.Cut(p.names, " ")
				return name, nil
			}
			splits = true
		}
	}
	if splits {
		return "", layout.Unsupported("its merges do not make all its tokens, and llama.cpp takes whole pieces for tokens (ignore_merges, here %v) by the name of the pre-tokenizer: it has none that splits like this and does so", takes)
	}
	return "", layout.Unsupported("llama.cpp has no pre-tokenizer that splits texts as its pre_tokenizer does%s", patterns(t))
}

// nfcRank puts those first that compose characters as the tokenizer does: llama.cpp
// never does, but who reads the name takes it for that.
func nfcRank(differs bool) int {
	if differs {
		return 1
	}
	return 0
}

func patterns(t *tokenizer.Tokenizer) string {
	const most = 200
	s := t.SplitRegexes()
	if s == "" {
		return ""
	}
	if len(s) > most {
		s = strings.ToValidUTF8(s[:most], "") + "..."
	}
	return " (" + s + ")"
}

func alike(texts []string, same func(string) bool) bool {
	for _, s := range texts {
		if !same(s) {
			return false
		}
	}
	return true
}

// sampleTexts are texts in which all that patterns tell apart meets: cases, scripts,
// marks, digits, punctuation, kinds and runs of spaces and line ends, contractions.
func sampleTexts() []string {
	texts := []string{
		"It's they'Re WE'LL  x'd 'tis", "1 12 123 1234 12345 1234567 ½²٣४ 3.14159", "HelloWorld helloWORLD ÉcoleÀla ÀÉ Ǆ ʰa",
		"a\n\n\nb \r\n c\t\td  \n  e   \n\n f \n", "   leading, trailing   ", "foo(bar); x+=1; //!? ...\n/path/to\n",
		"中文字符 和 かな カナ 한국어 ไทย เขียน", "e\u0301 n\u0303o क्षि \u0301x ️⃣", "🦙 👩‍👩‍👧 x🦙y", "a\u00a0b\u3000c\u2003\u2003d\u0085e",
		"<sentinel:12>IMGIMGABZ  \t x", "$a^b~c|d`e<f>=g+h", "。，、।۔،…！？", "word/word\n/\r/ _x_ -y-", "«¿¡ “q” ‘q’ — x", "ㄅㄆ ㄱㄴ 豈 々 〆 ﾟ",
		"a b c dé f", "x\n y\n\tz", "  \n\r ", "100 000,00 €1,000.00",
	}
	parts := []string{
		"a", "b", "Z", "W", "é", "Ñ", "ß", "Ω", "ж", "Я", "1", "2", "7", "٣", "½", "中", "字", "か", "カ", "한", "ก", "ב", "ا", "क", "ि", "\u0301", "\u0303",
		" ", " ", "  ", "   ", "\t", "\n", "\n\n", "\r\n", "\u00a0", "\u3000", ".", ",", "!", "?", "-", "_", "/", "(", "'", "'", "'s", "'T", "'re", "'LL", "’",
		"$", "+", "<", "=", "~", "|", "`", "^", "。", "，", "…", "“", "€", "🦙", "\u200d", "abc", "Def", "GHI", "123", "4567",
	}
	random := rand.New(rand.NewPCG(1, 2))
	for range 600 {
		var b strings.Builder
		for range 1 + random.IntN(14) {
			b.WriteString(parts[random.IntN(len(parts))])
		}
		texts = append(texts, b.String())
	}
	return texts
}

// tokenTexts are texts of the vocabulary's own tokens, two and three in a row.
func tokenTexts(t *tokenizer.Tokenizer) []string {
	random := rand.New(rand.NewPCG(3, 4))
	texts := make([]string, 2000)
	for i := range texts {
		ids := make([]int32, 2+i%2)
		for k := range ids {
			ids[k] = int32(random.IntN(t.VocabSize()))
		}
		texts[i] = t.Decode(ids)
	}
	return texts
}
