package vocab

import (
	"slices"
	"strings"

	"github.com/golowbit/lowbit/checkpoint/layout"
	"github.com/golowbit/lowbit/internal/tokenizer/pattern"
)

// preTokenizer is what one name of tokenizer.ggml.pre stands for in llama.cpp
// (llama-vocab.cpp), as tokenizer.json says it.
type preTokenizer struct {
	names string // by spaces; the first is the one that is written
	// steps are the patterns that split a text, in order; stepGPT2 is the one built
	// into ByteLevel, stepDigits is Digits. None: a token is spelled as it is, a space
	// as "▁", and what no token spells by tokens for bytes.
	steps []string
	// What the name implies in llama.cpp.
	ignoreMerges, addBOS bool
	// nfc: the tokenizer that such models have been trained with composes characters.
	nfc bool
}

const (
	stepGPT2   = "ByteLevel"
	stepDigits = "Digits"
)

// What patterns are made of.
const (
	contraction = `(?i:'s|'t|'re|'ve|'m|'ll|'d)`
	before      = `[^\r\n\p{L}\p{N}]?`
	word        = before + `\p{L}+`
	digits3     = `\p{N}{1,3}`
	marks       = ` ?[^\s\p{L}\p{N}]+[\r\n]*`
	marksSlash  = ` ?[^\s\p{L}\p{N}]+[\r\n/]*`
	lineEnds    = `\s*[\r\n]+`
	spaces      = `\s+(?!\S)|\s+`
	upper       = `\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}`
	lower       = `\p{Ll}\p{Lm}\p{Lo}\p{M}`
	noHan       = `(?!\p{Han})`
	lines       = `[^\n]+|[\n]+`
	kanaKanji   = `[一-龥぀-ゟ゠-ヿ]+`
	// DeepSeek's: letters of scripts with case, punctuation, and Asian scripts.
	casedLetters = `A-Za-zµÀ-ÖØ-öø-ƺƼ-ƿǄ-ʓʕ-ʯͰ-ͳͶͷͻ-ͽͿΆΈ-ΊΌΎ-ΡΣ-ϵϷ-ҁҊ-ԯԱ-ՖႠ-ჅᎠ-Ᏽᏸ-ᏽᲐ-ᲺᲽ-Ჿᴀ-ᴫᵫ-ᵷᵹ-ᶚḀ-ἕἘ-Ἕἠ-ὅὈ-Ὅὐ-ὗὙὛὝὟ-ώᾀ-ᾴᾶ-ᾼιῂ-ῄῆ-ῌῐ-ΐῖ-Ίῠ-Ῥῲ-ῴῶ-ῼℂℇℊ-ℓℕℙ-ℝℤΩℨK-ℭℯ-ℴℹℼ-ℿⅅ-ⅉⅎↃↄⰀ-ⱻⱾ-ⳤⳫ-ⳮⳲⳳꙀ-ꙭꚀ-ꚛꜢ-ꝯꝱ-ꞇꞋ-ꞎꭰ-ꮿﬀ-ﬆﬓ-ﬗＡ-Ｚａ-ｚ𐐀-𐑏𐒰-𐓓𐓘-𐓻𐲀-𐲲𐳀-𐳲𑢠-𑣟𞤀-𞥃`
	someMarks    = `!-/:-~！-／：-～‘-‟　-。`
	asian        = `[一-龥ࠀ-一가-퟿]+`
	wordMarks    = `[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_` + "`" + `{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+`
	// from the right, by three
	digitGroups = `\p{N}{1,3}(?=(?:\p{N}{3})*(?!\p{N}))`
	asianAFMoE  = `[一-鿿㐀-䶿豈-﫿぀-ゟ゠-ヿ･-ﾟ⼀-⿟เ-๿຀-໿ក-៿က-႟ꩠ-ꩿꧠ-꧿가-힯ᄀ-ᇿ]+`
	asianYoutu  = `[가-힣ㄱ-ㆎ]+|[！…“”‘’—：；，、-〿︰-﹏]+|[ㄅ-ㄯ]+|[一-龥぀-ゟ゠-ヿ]+`
	bloomWords  = ` ?[^(\s|.,!?…。，、।۔،)]+`
)

// either joins alternatives of one pattern.
func either(parts ...string) string { return strings.Join(parts, "|") }

// cased is the pattern of GPT-4o and those that are like it: words begin where small
// letters are followed by a capital.
func cased(digits, marks, after string) string {
	return either(before+"["+upper+"]*["+lower+"]+"+after, before+"["+upper+"]+["+lower+"]*"+after, digits, marks, lineEnds, spaces)
}

// fallingSpaces is Jais 2's: runs of spaces by powers of two.
func fallingSpaces() string {
	return `\s{512}(?!\S)|\s{256}(?!\S)|\s{128}(?!\S)|\s{64}(?!\S)|\s{32}(?!\S)|\s{16}(?!\S)|\s{8}(?!\S)|\s{4}(?!\S)|\s{1,2}(?!\S)|\s{1}`
}

// kimi is GPT-4o's with runs of Chinese characters apart.
func kimi() string {
	capital, small := `(?:`+noHan+`[`+upper+`])`, `(?:`+noHan+`[`+lower+`])`
	return either(`\p{Han}+`, before+capital+`*`+small+`+`+contraction+`?`, before+capital+`+`+small+`*`+contraction+`?`,
		digits3, marks, lineEnds, spaces)
}

// preTokenizers are all that llama.cpp knows, those that are written before others
// that do the same.
func preTokenizers() []preTokenizer {
	deepseek3 := wordMarks + `[\r\n]*|` + either(lineEnds, spaces)
	gpt4o := cased(digits3, marksSlash, contraction+"?")
	return []preTokenizer{
		{names: "gpt-2 mpt olmo jais trillion granite-docling exaone4 phi-2 jina-es jina-de gigachat jina-v2-es jina-v2-de a.x-4.0 mellum modern-bert jina-v1-en jina-v2-code roberta-bpe", steps: []string{stepGPT2}},
		{names: "smollm starcoder refact command-r codeshell exaone minerva-7b mellum2", steps: []string{stepDigits, stepGPT2}},
		{names: "llama-bpe llama3 llama-v3 falcon3 falcon-h1 pixtral midm-2.0 lfm2 jina-v5-nano", steps: []string{pattern.Llama3}, ignoreMerges: true, addBOS: true},
		{names: "dbrx smaug-bpe chatglm-bpe glm4", steps: []string{pattern.Llama3}},
		{names: "qwen2 deepseek-r1-qwen", steps: []string{pattern.Qwen2}, nfc: true},
		{names: "stablelm2 hunyuan solar-open kormo f2llmv2 megrez grok-2", steps: []string{pattern.Qwen2}},
		{names: "qwen35", steps: []string{either(contraction, before+`[\p{L}\p{M}]+`, `\p{N}`, ` ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*`, lineEnds, spaces)}, nfc: true},
		{names: "tekken", steps: []string{cased(`\p{N}`, marksSlash, "")}, ignoreMerges: true, addBOS: true},
		{names: "gpt-4o llama4 kanana2 talkie minimax-m2", steps: []string{gpt4o}},
		{names: "granite-embed-multi-97m", steps: []string{gpt4o}, ignoreMerges: true},
		{names: "tiny_aya cohere2moe", steps: []string{`\d{1,3}(?=(?:\d{3})*\b)`, gpt4o}},
		{names: preDeepseekLLM, steps: []string{"[\r\n]", `\s?[` + casedLetters + `]+`, `\s?[` + someMarks + `]+`, `\s+$`, asian, `\p{N}+`}},
		{names: "deepseek-coder", steps: []string{"[\r\n]", `\s?\p{L}+`, `\s?\p{P}+`, asian, stepDigits}},
		{names: "deepseek-v3 hunyuan-dense joyai-llm hy_v4", steps: []string{digits3, kanaKanji, deepseek3}},
		{names: "spark2_5", steps: []string{digits3, kanaKanji, wordMarks + `|[\r\n]|` + spaces, `\p{N}`}},
		{names: "afmoe", steps: []string{digitGroups, asianAFMoE, deepseek3}},
		{names: "youtu", steps: []string{asianYoutu, cased(`\p{N}`, marksSlash, contraction+"?")}, ignoreMerges: true},
		{names: "kimi-k2", steps: []string{kimi()}},
		{names: preFalcon, steps: []string{`[\p{P}\$\+<=>\^~\|` + "`" + `]+`, pattern.GPT2, `[0-9][0-9][0-9]`}},
		{names: "poro-chat bloom gpt3-finnish", steps: []string{bloomWords}},
		{names: "viking", steps: []string{bloomWords, `\p{N}`}},
		{names: "chameleon", steps: []string{`<sentinel:[0-9]+>`, `(IMGIMG)((A|B|C|D|E|F|G|H|I){1,4})Z`, `([\t\n]|    |  )`, `\p{N}`, `[\p{P}!-/:-@\[-` + "`" + `{-~]`, pattern.GPT2}, addBOS: true},
		{names: "superbpe", steps: []string{`\p{N}+`, `(?=(\d{3})+(?!\d))`}},
		{names: "bailingmoe bailingmoe2 llada-moe", steps: []string{either(`'(?i:[sdmt]|ll|ve|re)`, `[^\r\n\p{L}\p{N}]?+\p{L}+`, `\p{N}`, ` ?[^\s\p{L}\p{N}]++[\r\n]*`, `\s*[\r\n]`, spaces)}},
		{names: "seed-coder", steps: []string{either(contraction, word, `\p{N}{1}`, ` ?[^\s\p{L}\p{N}\r\n]+`, lineEnds, spaces)}},
		{names: "ufakzeka", steps: []string{either(word, `\p{N}`, marks, lineEnds, spaces)}},
		{names: "laguna", steps: []string{lines, pattern.Qwen2}},
		{names: "exaone-moe", steps: []string{either(contraction, before+`(?:\p{L}\p{M}*(?: \p{L}\p{M}*)*)+`, `\p{N}`, ` ?[^\s\p{L}\p{N}]+[\r\n/]?`, `\s*[\r\n]`, spaces)}},
		{names: "jais-2", steps: []string{either(contraction, word, digits3, marks, lineEnds, fallingSpaces())}},
		{names: "minicpm5", steps: []string{digits3, either(contraction, word, `\p{N}+`, marks, lineEnds, spaces)}, ignoreMerges: true},
		{names: preGemma4 + " granite-embed-multi-311m", addBOS: true},
		{names: preSarvam},
		{names: preDefault, steps: []string{`[\p{P}\$\+<=>\^~\|]+`, pattern.GPT2, `\p{N}+`, `[0-9][0-9][0-9]`}},
	}
}

const (
	preDefault = "default"
	preGemma4  = "gemma4"
	preSarvam  = "sarvam-moe"
	// models of these have other forms of them (preTokenizer.forms)
	preFalcon      = "falcon"
	preDeepseekLLM = "deepseek-llm"
)

// raw tells those whose tokens are no bytes but text.
func (p *preTokenizer) raw() bool { return len(p.steps) == 0 }

// findPre finds a pre-tokenizer by one of its names; without one llama.cpp takes the
// default.
func findPre(name string) (preTokenizer, error) {
	if name == "" {
		name = preDefault
	}
	var known []string
	for _, p := range preTokenizers() {
		names := strings.Fields(p.names)
		if slices.Contains(names, name) {
			return p, nil
		}
		known = append(known, names...)
	}
	slices.Sort(known)
	return preTokenizer{}, layout.Unsupported("pre-tokenizer %q is not read, only %s", name, strings.Join(known, ", "))
}

func byteLevel(pattern bool) jsonObject {
	return jsonObject{"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": pattern}
}

func isolated(regex string) jsonObject {
	return jsonObject{"type": "Split", "pattern": jsonObject{"Regex": regex}, "behavior": "Isolated", "invert": false}
}

// json is the pre_tokenizer of tokenizer.json.
func (p *preTokenizer) json() jsonObject {
	if p.raw() {
		return isolated(lines)
	}
	var parts []jsonObject
	builtin := false
	for _, s := range p.steps {
		switch s {
		case stepGPT2:
			builtin = true
		case stepDigits:
			parts = append(parts, jsonObject{"type": "Digits", "individual_digits": true})
		default:
			parts = append(parts, isolated(s))
		}
	}
	if parts = append(parts, byteLevel(builtin)); len(parts) == 1 {
		return parts[0]
	}
	return jsonObject{"type": "Sequence", "pretokenizers": parts}
}

// forms are all pre_tokenizers of tokenizer.json that llama.cpp's stands for: its own,
// and those of models that have no token by which the two differ.
func (p *preTokenizer) forms() []jsonObject {
	forms := []jsonObject{p.json()}
	sequence := func(parts ...jsonObject) {
		forms = append(forms, jsonObject{"type": "Sequence", "pretokenizers": parts})
	}
	switch p.names {
	case preFalcon:
		sequence(jsonObject{"type": "Punctuation", "behavior": "Contiguous"}, byteLevel(true),
			jsonObject{"type": "Digits", "individual_digits": false}, isolated(`[0-9][0-9][0-9]`))
	case preDeepseekLLM:
		parts := []jsonObject{}
		for _, s := range p.steps[:len(p.steps)-1] {
			parts = append(parts, isolated(s))
		}
		sequence(append(parts, jsonObject{"type": "Digits", "individual_digits": true}, byteLevel(false))...)
	}
	return forms
}
