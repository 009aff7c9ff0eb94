package tokenizer

import (
	"encoding/json"
	"fmt"
)

// template is what a post-processor puts around a single text.
type template struct {
	prefix, suffix []int32
}

var postProcessorTypes = []string{"Sequence", "TemplateProcessing", "ByteLevel", "RobertaProcessing", "BertProcessing"}

func parsePostProcessor(where string, raw json.RawMessage, depth int) (template, error) {
	var t template
	if absent(raw) {
		return t, nil
	}
	if depth > maxNesting {
		return t, tooDeep(where)
	}
	typ, err := componentType(where, raw)
	if err != nil {
		return t, err
	}
	switch typ {
	case "ByteLevel":
		// Only moves offsets, which are not kept here.
		return t, nil
	case "TemplateProcessing":
		return parseTemplate(where, raw)
	case "Sequence":
		var seq struct {
			Processors []json.RawMessage `json:"processors"`
		}
		if err := decodeInto(where, raw, &seq); err != nil {
			return t, err
		}
		for i, r := range seq.Processors {
			outer, err := parsePostProcessor(fmt.Sprintf("%s.processors[%d]", where, i), r, depth+1)
			if err != nil {
				return t, err
			}
			t.prefix = append(outer.prefix, t.prefix...)
			t.suffix = append(t.suffix, outer.suffix...)
		}
		return t, nil
	case "RobertaProcessing", "BertProcessing":
		var c struct {
			Sep [2]json.RawMessage `json:"sep"`
			Cls [2]json.RawMessage `json:"cls"`
		}
		if err := decodeInto(where, raw, &c); err != nil {
			return t, err
		}
		var cls, sep int32
		if json.Unmarshal(c.Cls[1], &cls) != nil || json.Unmarshal(c.Sep[1], &sep) != nil {
			return t, fmt.Errorf(`%s: cls or sep is not a ["token", id] pair`, where)
		}
		return template{[]int32{cls}, []int32{sep}}, nil
	}
	return t, unsupported(where, typ, postProcessorTypes...)
}

func parseTemplate(where string, raw json.RawMessage) (template, error) {
	var c struct {
		Single []struct {
			Sequence *struct {
				ID string `json:"id"`
			} `json:"Sequence"`
			SpecialToken *struct {
				ID string `json:"id"`
			} `json:"SpecialToken"`
		} `json:"single"`
		SpecialTokens map[string]struct {
			IDs []int32 `json:"ids"`
		} `json:"special_tokens"`
	}
	var t template
	if err := decodeInto(where, raw, &c); err != nil {
		return t, err
	}
	seen := false
	for i, p := range c.Single {
		switch {
		case p.Sequence != nil:
			if p.Sequence.ID != "A" || seen {
				return t, fmt.Errorf("%s: single[%d]: want the sequence A once, found another %q", where, i, p.Sequence.ID)
			}
			seen = true
		case p.SpecialToken != nil:
			s, ok := c.SpecialTokens[p.SpecialToken.ID]
			if !ok {
				return t, fmt.Errorf("%s: single[%d]: %q is not among special_tokens", where, i, p.SpecialToken.ID)
			}
			if seen {
				t.suffix = append(t.suffix, s.IDs...)
			} else {
				t.prefix = append(t.prefix, s.IDs...)
			}
		default:
			return t, fmt.Errorf("%s: single[%d]: neither Sequence nor SpecialToken", where, i)
		}
	}
	if !seen {
		return t, fmt.Errorf("%s: single does not hold the sequence A", where)
	}
	return t, nil
}
