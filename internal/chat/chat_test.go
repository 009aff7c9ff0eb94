package chat

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

var tokens = map[string]string{"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<unk>"}

// TestRender: what transformers' apply_chat_template makes of the conversations in
// testdata, on 26 July 2024, of two templates there and of those of models that the
// library's module ships. Texts in parts are joined beforehand where a template does not
// loop over them: transformers raises a TypeError, or writes the list as Python would.
func TestRender(t *testing.T) {
	var chats []struct{ Messages, Tools json.RawMessage }
	read(t, "testdata/chats.json", &chats)
	var want map[string][]struct{ Text, Error *string }
	read(t, "testdata/rendered.json", &want)
	require.Len(t, want, 8)
	dir, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "github.com/ardanlabs/jinja").Output()
	require.NoError(t, err)
	for name, want := range want {
		t.Run(name, func(t *testing.T) {
			source, err := os.ReadFile(filepath.Join("testdata", name))
			if err != nil {
				source, err = os.ReadFile(filepath.Join(strings.TrimSpace(string(dir)), "testdata", "templates", name))
			}
			if err != nil {
				t.Skip("the template is in the library's module only, which is not there whole:", err)
			}
			tm, err := Compile(string(source), tokens)
			require.NoError(t, err)
			require.Len(t, want, len(chats))
			for i, c := range chats {
				conv, err := Parse(c.Messages, "", c.Tools)
				require.NoError(t, err)
				text, err := tm.Render(conv)
				if want[i].Error != nil {
					require.EqualError(t, err, "chat template: "+*want[i].Error, "chat %d", i)
					continue
				}
				require.NoError(t, err, "chat %d", i)
				require.Equal(t, *want[i].Text, text, "chat %d", i)
			}
		})
	}
}

func read(t *testing.T, name string, to any) {
	data, err := os.ReadFile(name)
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(data, to))
}

const plain = `{%- for m in messages %}{{ m.role }}: {{ m.content }}|{% endfor %}{{ tools if tools else 'None' }}`

// TestParse: ShareGPT's keys, a system prompt beside the messages, and what is none.
func TestParse(t *testing.T) {
	tm, err := Compile(plain, nil)
	require.NoError(t, err)
	for _, c := range []struct{ name, messages, system, tools, want, err string }{
		{"messages", `[{"role":"user","content":"a"},{"role":"assistant","content":"b"}]`, "", "", "user: a|assistant: b|None", ""},
		{"sharegpt", `[{"from":"system","value":"s"},{"from":"human","value":"a"},{"from":"gpt","value":"b"},{"from":"observation","value":"c"}]`, "", "", "system: s|user: a|assistant: b|tool: c|None", ""},
		{"system", `[{"role":"user","content":"a"}]`, "be", "", "system: be|user: a|None", ""},
		{"second system", `[{"from":"system","value":"s"}]`, "be", "", "system: s|None", ""},
		{"tools", `[{"role":"user","content":"a"}]`, "", `[1]`, "user: a|[1]", ""},
		{"parts", `[{"role":"user","content":[{"type":"text","text":"a"},{"type":"text","text":"b"}]}]`, "", "", "user: a\nb|None", ""},
		{"none", `[]`, "", "", "", "without messages"},
		{"string", `"a"`, "", "", "", "want an array of messages, found a string"},
		{"number", `[1]`, "", "", "", "message 1: want an object with a role and a content, found a number"},
		{"role", `[{"role":"user","content":"a"},{"content":"a"}]`, "", "", "", `message 2: no "role"; it has ["content"]`},
		{"role of a number", `[{"role":1,"content":"a"}]`, "", "", "", `"role" is 1, want a string`},
		{"content", `[{"role":"user","text":"a"}]`, "", "", "", `message 1: no "content"; it has ["role" "text"]`},
		{"null", `[{"role":"user","content":null}]`, "", "", "", `"content" is null`},
		{"from", `[{"from":"narrator","value":"a"}]`, "", "", "", `"from" is 'narrator', want one of human, gpt`},
		{"value", `[{"from":"human"}]`, "", "", "", `no "value"`},
		{"broken", `[{`, "", "", "", "EOF"},
		{"tail", `[] []`, "", "", "", "more than one JSON value"},
	} {
		t.Run(c.name, func(t *testing.T) {
			conv, err := Parse(json.RawMessage(c.messages), c.system, json.RawMessage(c.tools))
			if c.err != "" {
				require.ErrorContains(t, err, c.err)
				return
			}
			require.NoError(t, err)
			text, err := tm.Render(conv)
			require.NoError(t, err)
			require.Equal(t, c.want, text)
		})
	}
	conv, err := Parse(json.RawMessage(`[{"role":"user","content":[{"type":"image"}]}]`), "", nil)
	require.NoError(t, err)
	_, err = tm.Render(conv)
	require.ErrorContains(t, err, "message 1: a part of the content is no text")
}

// TestCompile: a model without a template, and one that is none.
func TestCompile(t *testing.T) {
	_, err := Compile("", nil)
	require.ErrorIs(t, err, ErrNone)
	_, err = Compile("{% if %}", nil)
	require.ErrorContains(t, err, "chat template: ")
}
