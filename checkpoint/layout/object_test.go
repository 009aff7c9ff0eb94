package layout

import (
	"bytes"
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestObject(t *testing.T) {
	o, err := ParseObject([]byte(`{"b": 1e-05, "a": {"x":  [1,2.50]}, "<": "é<\u00e9", "b": 10000000000000000001}`))
	require.NoError(t, err)
	o.Set("c", []byte(`null`))
	o.Remove("a")
	o.Remove("not there")
	require.Equal(t, "{\n  \"b\": 10000000000000000001,\n  \"<\": \"é<\\u00e9\",\n  \"c\": null\n}\n", string(o.Bytes()))
	o, err = ParseObject([]byte(` {} `))
	require.NoError(t, err)
	require.Equal(t, "{}\n", string(o.Bytes()))
	for _, bad := range []string{``, `null`, `"x"`, `{`, `{"a"}`, `{"a":}`, `{"a":1,}`, `{}x`, `{"a":1]`} {
		_, err := ParseObject([]byte(bad))
		require.Error(t, err, bad)
	}
}

// FuzzObject: what is accepted is what encoding/json accepts as an object,
// and writing it changes neither values nor order.
func FuzzObject(f *testing.F) {
	for _, s := range []string{"{\n  \"a\": [1, 2],\n  \"b\": {\"c\": null}\n}\n", `{}`, `{"a":1,"a":2}`, `{"é\u0000":[{"b":null}]}`, `{"a":1} x`, `[{}]`, `{"a":1e999}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		o, err := ParseObject(data)
		var std map[string]json.RawMessage
		stdErr := json.Unmarshal(data, &std)
		if err != nil {
			require.True(t, stdErr != nil || std == nil, "refused: %v", err)
			return
		}
		require.NoError(t, stdErr)
		require.Len(t, o.Keys, len(std))
		text := o.Bytes()
		again, err := ParseObject(text)
		require.NoError(t, err)
		require.Equal(t, o.Keys, again.Keys)
		require.Equal(t, text, again.Bytes())
		for k, v := range std {
			got, ok := again.Get(k)
			require.True(t, ok)
			var a, b bytes.Buffer
			require.NoError(t, json.Compact(&a, v))
			require.NoError(t, json.Compact(&b, got))
			require.Equal(t, a.String(), b.String())
		}
	})
}

// TestObjectLarge: the time grows with the size of the text, not its square.
func TestObjectLarge(t *testing.T) {
	var b bytes.Buffer
	b.WriteString(`{"a":0`)
	for i := range 200_000 {
		fmt.Fprintf(&b, `,"key %d":%d`, i, i)
	}
	b.WriteString(`}`)
	start := time.Now()
	o, err := ParseObject(b.Bytes())
	require.NoError(t, err)
	require.Len(t, o.Keys, 200_001)
	require.Less(t, time.Since(start), 5*time.Second) // squared it took minutes
}

func TestShapeText(t *testing.T) {
	require.Equal(t, "[1 any 3]", shapeText([]int{1, AnyDim, 3}))
	require.Less(t, len(shapeText(make([]int, 100_000))), 100)
}
