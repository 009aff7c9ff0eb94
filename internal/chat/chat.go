// Package chat turns conversations into text with a model's own chat template, as the
// apply_chat_template of transformers does.
package chat

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/ardanlabs/jinja"
)

// Now is the moment that templates are told it is: a template that writes the date
// of the day would make another calibration text every day, and an interrupted run
// could not be resumed on the next. It is the date that Llama 3's template falls
// back to.
var Now = time.Date(2024, time.July, 26, 0, 0, 0, 0, time.UTC)

// Conversation is messages, and what a template may be told beside them. Keys keep
// the order that they have in a file, as templates write some of them as JSON.
type Conversation struct {
	messages, tools jinja.Value
}

// roles are what ShareGPT's "from" is called in messages.
var roles = map[string]string{
	"human": "user", "user": "user",
	"gpt": "assistant", "chatgpt": "assistant", "bing": "assistant", "bard": "assistant", "assistant": "assistant", "model": "assistant",
	"system": "system", "tool": "tool", "observation": "tool",
}

// Parse reads a conversation: a JSON array of messages, each with a role and a
// content, or with ShareGPT's from and value. system, if not "", comes before a
// conversation that has no system message; tools is a JSON array of functions, or nil.
func Parse(messages json.RawMessage, system string, tools json.RawMessage) (*Conversation, error) {
	list, err := value(messages)
	if err != nil {
		return nil, err
	}
	if !list.IsList() {
		return nil, fmt.Errorf("want an array of messages, found %s", kind(list))
	}
	c := &Conversation{tools: jinja.None()}
	out := make([]jinja.Value, 0, list.AsList().Len()+1)
	for i, m := range list.AsList().Items {
		m, err := message(m)
		if err != nil {
			return nil, fmt.Errorf("message %d: %w", i+1, err)
		}
		if role, _ := m.AsDict().Get("role"); i == 0 && system != "" && role.AsString() != "system" {
			first := jinja.NewDict()
			first.AsDict().Set("role", jinja.NewString("system"))
			first.AsDict().Set("content", jinja.NewString(system))
			out = append(out, first)
		}
		out = append(out, m)
	}
	if len(out) == 0 {
		return nil, errors.New("a conversation without messages")
	}
	c.messages = jinja.NewList(out)
	if len(tools) > 0 {
		if c.tools, err = value(tools); err != nil {
			return nil, fmt.Errorf("tools: %w", err)
		}
	}
	return c, nil
}

// Tools reports whether there are functions to call.
func (c *Conversation) Tools() bool { return c.tools.IsTruthy() }

// message checks one, and gives ShareGPT's the keys of the others.
func message(m jinja.Value) (jinja.Value, error) {
	if !m.IsDict() {
		return m, fmt.Errorf("want an object with a role and a content, found %s", kind(m))
	}
	d := m.AsDict()
	if from, ok := d.Get("from"); ok && !d.Has("role") {
		if !from.IsString() || roles[from.AsString()] == "" {
			return m, fmt.Errorf("%q is %v, want one of human, gpt, system, tool", "from", from)
		}
		text, ok := d.Get("value")
		if !ok {
			return m, fmt.Errorf("no %q; it has %q", "value", d.Keys)
		}
		m = jinja.NewDict()
		d = m.AsDict()
		d.Set("role", jinja.NewString(roles[from.AsString()]))
		d.Set("content", text)
	}
	role, ok := d.Get("role")
	if !ok {
		return m, fmt.Errorf("no %q; it has %q", "role", d.Keys)
	}
	if !role.IsString() {
		return m, fmt.Errorf("%q is %v, want a string", "role", role)
	}
	content, ok := d.Get("content")
	switch {
	case ok && (content.IsString() || content.IsList()):
	case d.Has("tool_calls") && (!ok || content.IsNone()):
	case !ok:
		return m, fmt.Errorf("no %q; it has %q", "content", d.Keys)
	default:
		return m, fmt.Errorf("%q is %s, want a string or an array of parts", "content", kind(content))
	}
	return m, nil
}

func kind(v jinja.Value) string {
	switch {
	case v.IsNone():
		return "null"
	case v.IsString():
		return "a string"
	case v.IsNumber():
		return "a number"
	case v.IsBool():
		return "true or false"
	case v.IsList():
		return "an array"
	}
	return "an object"
}

// value reads JSON; objects keep the order of their keys.
func value(data []byte) (jinja.Value, error) {
	d := json.NewDecoder(bytes.NewReader(data))
	d.UseNumber()
	v, err := next(d)
	if err != nil {
		return v, err
	}
	if _, err := d.Token(); err != io.EOF {
		return v, errors.New("more than one JSON value")
	}
	return v, nil
}

func next(d *json.Decoder) (jinja.Value, error) {
	t, err := d.Token()
	if err != nil {
		return jinja.None(), err
	}
	switch t {
	case json.Delim('['):
		var items []jinja.Value
		for d.More() {
			v, err := next(d)
			if err != nil {
				return v, err
			}
			items = append(items, v)
		}
		_, err = d.Token()
		return jinja.NewList(items), err
	case json.Delim('{'):
		o := jinja.NewDict()
		for d.More() {
			k, err := d.Token()
			if err != nil {
				return o, err
			}
			v, err := next(d)
			if err != nil {
				return v, err
			}
			o.AsDict().Set(k.(string), v)
		}
		_, err = d.Token()
		return o, err
	}
	return jinja.FromGoValue(t), nil
}

// Template is a chat template, and the tokens that it may write.
type Template struct {
	t      *jinja.Template
	tokens map[string]string
	parts  bool // it knows contents that are arrays of parts
}

// overParts is a loop over the parts of a content.
var overParts = regexp.MustCompile(`\{%-?\s*for\s+\w+\s+in\s+[\w.]*(\[['"])?content\b`)

// ErrNone is returned for a model without a chat template.
var ErrNone = errors.New("the model has no chat template (chat_template.jinja, or chat_template in tokenizer_config.json), which conversations need: give texts, or a folder with --tokenizer that has one")

// Compile reads a template. tokens are the texts of the model's special tokens by the
// names that templates know them by: bos_token and so on.
func Compile(source string, tokens map[string]string) (*Template, error) {
	if source == "" {
		return nil, ErrNone
	}
	t, err := jinja.Compile(indented.ReplaceAllString(source, "| indented_json(indent"))
	if err != nil {
		return nil, fmt.Errorf("chat template: %w", err)
	}
	return &Template{t: t, tokens: tokens, parts: overParts.MatchString(source)}, nil
}

// Render writes a conversation, without a prompt for one more answer.
func (t *Template) Render(c *Conversation) (string, error) { return t.render(c, false) }

// Prompt writes a conversation and the prompt for one more answer.
func (t *Template) Prompt(c *Conversation) (string, error) { return t.render(c, true) }

func (t *Template) render(c *Conversation, prompt bool) (text string, err error) {
	defer func() { // of what only some conversations make a template do
		if p := recover(); p != nil {
			err = fmt.Errorf("chat template: %v", p)
		}
	}()
	messages := c.messages
	if !t.parts {
		if messages, err = joined(messages); err != nil {
			return "", err
		}
	}
	data := map[string]jinja.Value{
		"messages": messages, "tools": c.tools, "documents": jinja.None(),
		"add_generation_prompt": jinja.NewBool(prompt),
		"strftime_now":          jinja.NewCallable("strftime_now", strftime),
		"indented_json":         jinja.NewCallable("indented_json", indentedJSON),
	}
	for name, s := range t.tokens {
		data[name] = jinja.NewString(s)
	}
	if text, err = t.t.RenderValues(data); err != nil {
		return "", fmt.Errorf("chat template: %w", err)
	}
	return text, nil
}

// joined is messages whose contents are strings: parts become lines, as where a server
// has a template that knows no parts.
func joined(messages jinja.Value) (jinja.Value, error) {
	out := slices.Clone(messages.AsList().Items)
	for i, m := range out {
		content, _ := m.AsDict().Get("content")
		if !content.IsList() {
			continue
		}
		var texts []string
		for _, p := range content.AsList().Items {
			var text jinja.Value
			if p.IsDict() {
				text, _ = p.AsDict().Get("text")
			}
			if !text.IsString() {
				return messages, fmt.Errorf("message %d: a part of the content is no text, and the chat template takes none but texts: %v", i+1, p)
			}
			texts = append(texts, text.AsString())
		}
		with := jinja.NewDict()
		for _, k := range m.AsDict().OrderedKeys() {
			v, _ := m.AsDict().Get(k)
			with.AsDict().Set(k, v)
		}
		with.AsDict().Set("content", jinja.NewString(strings.Join(texts, "\n")))
		out[i] = with
	}
	return jinja.NewList(out), nil
}

// indented is a filter of which the library, other than without an indent, sorts the keys
// and escapes what HTML would.
var indented = regexp.MustCompile(`\|\s*tojson\s*\(\s*indent`)

// indentedJSON writes a value as Python's json.dumps does with an indent.
func indentedJSON(args []jinja.Value, more map[string]jinja.Value) (jinja.Value, error) {
	var compact, out bytes.Buffer
	if err := appendJSON(&compact, args[0]); err != nil {
		return jinja.None(), err
	}
	width := more["indent"]
	if !width.IsInt() {
		return jinja.None(), fmt.Errorf("tojson: an indent of %v, want a number", width)
	}
	err := json.Indent(&out, compact.Bytes(), "", strings.Repeat(" ", int(min(max(width.AsInt(), 0), 16))))
	return jinja.NewString(out.String()), err
}

func appendJSON(b *bytes.Buffer, v jinja.Value) error {
	switch {
	case v.IsList():
		b.WriteByte('[')
		for i, item := range v.AsList().Items {
			if i > 0 {
				b.WriteByte(',')
			}
			if err := appendJSON(b, item); err != nil {
				return err
			}
		}
		b.WriteByte(']')
		return nil
	case v.IsDict():
		b.WriteByte('{')
		for i, k := range v.AsDict().OrderedKeys() {
			if i > 0 {
				b.WriteByte(',')
			}
			_ = appendJSON(b, jinja.NewString(k))
			b.WriteByte(':')
			item, _ := v.AsDict().Get(k)
			if err := appendJSON(b, item); err != nil {
				return err
			}
		}
		b.WriteByte('}')
		return nil
	}
	var leaf any
	switch {
	case v.IsString():
		leaf = v.AsString()
	case v.IsBool():
		leaf = v.AsBool()
	case v.IsInt():
		leaf = v.AsInt()
	case v.IsFloat():
		leaf = v.AsFloat()
	}
	e := json.NewEncoder(b)
	e.SetEscapeHTML(false)
	err := e.Encode(leaf)
	b.Truncate(b.Len() - 1) // the line's end
	return err
}

// strftime writes Now by a format of C's.
func strftime(args []jinja.Value, _ map[string]jinja.Value) (jinja.Value, error) {
	if len(args) != 1 || !args[0].IsString() {
		return jinja.None(), errors.New("strftime_now wants a format")
	}
	var b strings.Builder
	format := args[0].AsString()
	for i := 0; i < len(format); i++ {
		if format[i] != '%' || i+1 == len(format) {
			b.WriteByte(format[i])
			continue
		}
		i++
		if format[i] == '-' && i+1 < len(format) { // without zeros, as glibc has it
			i++
			b.WriteString(strings.TrimLeft(verb(format[i]), "0"))
			continue
		}
		b.WriteString(verb(format[i]))
	}
	return jinja.NewString(b.String()), nil
}

// verb is what strftime writes for one letter.
func verb(c byte) string {
	layout, ok := map[byte]string{
		'Y': "2006", 'y': "06", 'm': "01", 'd': "02", 'e': "_2", 'j': "002", 'B': "January", 'b': "Jan", 'h': "Jan", 'A': "Monday", 'a': "Mon",
		'H': "15", 'I': "03", 'M': "04", 'S': "05", 'p': "PM", 'Z': "MST", 'z': "-0700",
		'F': "2006-01-02", 'T': "15:04:05", 'D': "01/02/06", 'R': "15:04",
	}[c]
	if !ok {
		return string(c)
	}
	return Now.Format(layout)
}
