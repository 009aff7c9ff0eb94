package lowbit

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/golowbit/lowbit/checkpoint/formats/ggufmodel"
	"github.com/golowbit/lowbit/internal/blocks"
)

// weighed is who decides where an importance matrix stands in for text.
const weighed = "an importance matrix is given, and no text"

// unseen reports whether an importance matrix stands in for text.
func (o *Options) unseen() bool { return o.Importance != "" && !o.Calibration.given() }

func (o *Options) checkImportance() error {
	if o.Importance != "" && o.Calibration.given() {
		return badOptions("an importance matrix stands in for calibration text, and text is given too")
	}
	return nil
}

// openImportance reads the importance matrix, or begins one.
func (j *job) openImportance(o Options) (err error) {
	if o.Importance != "" {
		j.importance, err = ggufmodel.ReadImportance(o.Importance, j.src)
	}
	if err != nil || o.SaveImportance == "" {
		return err
	}
	if _, err := os.Lstat(o.SaveImportance); !o.Resume && !errors.Is(err, fs.ErrNotExist) {
		return badOptions("%s: there is such a file already", o.SaveImportance)
	}
	if _, err := os.Stat(filepath.Dir(o.SaveImportance)); err != nil {
		return badOptions("%s: no folder for it: %w", o.SaveImportance, err)
	}
	made, err := ggufmodel.NewImportance(j.src)
	j.saveImportance = func() error {
		if err := blocks.EachSquares(j.model.Blocks, blockLayers{j}, made.Set); err != nil {
			return err
		}
		return made.Write(o.SaveImportance, []string{o.Calibration.Text.String()}, len(j.text.windows), j.text.seqLen)
	}
	return err
}
