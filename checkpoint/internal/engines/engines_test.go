package engines

import (
	"flag"
	"os"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
)

var update = flag.Bool("update", false, "write docs/engines.md")

// TestDocument holds the page to the data.
func TestDocument(t *testing.T) {
	const page = "../../../docs/engines.md"
	if *update {
		require.NoError(t, os.WriteFile(page, []byte(Markdown()), 0o644))
	}
	data, err := os.ReadFile(page)
	require.NoError(t, err)
	require.Equal(t, Markdown(), string(data), "go test ./checkpoint/internal/engines -update writes it")
}

// TestTable: every row can be reached and says why not.
func TestTable(t *testing.T) {
	for i, r := range Table {
		require.NotEmpty(t, r.Formats, "row %d", i)
		require.True(t, r.Loads || r.Note != "", "row %d refuses without a reason", i)
		require.Equal(t, r.Evidence.Versions == "", r.Evidence.Check == "", "row %d", i)
		for _, earlier := range Table[:i] {
			all := earlier.Engine == r.Engine && slices.Equal(earlier.Formats, r.Formats) &&
				len(earlier.Bits) == 0 && len(earlier.Groups) == 0 && earlier.Symmetry == AnyGrid && earlier.Index == AnyIndex
			require.False(t, all, "row %d (%s, %v) is behind one that speaks of everything", i, r.Engine, r.Formats)
		}
	}
}
