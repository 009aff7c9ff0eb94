// Package modelpack puts models into registries of containers, as artefacts of CNCF's
// ModelPack: a layer for every file, as it is.
//
// Source: the model specification (github.com/modelpack/model-spec: spec.md, config.md and
// annotations.md), on OCI's image and distribution specifications.
package modelpack

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2"
	"oras.land/oras-go/v2/registry/remote"
	"oras.land/oras-go/v2/registry/remote/auth"
	"oras.land/oras-go/v2/registry/remote/credentials"
	"oras.land/oras-go/v2/registry/remote/retry"
)

// Media types of the specification, and its annotation of layers: the file, with / between folders.
const (
	ArtifactType = "application/vnd.cncf.model.manifest.v1+json"
	ConfigType   = "application/vnd.cncf.model.config.v1+json"
	WeightType   = "application/vnd.cncf.model.weight.v1.raw"
	SettingsType = "application/vnd.cncf.model.weight.config.v1.raw"
	DocType      = "application/vnd.cncf.model.doc.v1.raw"
	CodeType     = "application/vnd.cncf.model.code.v1.raw"
	FilePath     = "org.cncf.model.filepath"
)

// Options of Push.
type Options struct {
	Dir        string                               // where the files are
	Files      []string                             // in Dir; nil means all that are not hidden, in folders below too
	To         string                               // REGISTRY/NAME, and :TAG or "latest"
	Descriptor map[string]string                    // what the configuration says of the model
	Config     map[string]string                    // and of how it is stored
	PlainHTTP  bool                                 // no TLS
	Progress   func(pass string, done, total int64) // of bytes in each of two passes
}

// Layer is a file of an artefact.
type Layer struct {
	Path      string        `json:"path"`
	MediaType string        `json:"media_type"`
	Digest    digest.Digest `json:"digest"`
	Size      int64         `json:"bytes"`
	There     bool          `json:"already_there"` // nothing was uploaded
}

// Pushed is an artefact in a registry.
type Pushed struct {
	Reference string        `json:"reference"`
	Digest    digest.Digest `json:"digest"` // of the manifest
	Size      int64         `json:"bytes"`  // of all layers
	Uploaded  int64         `json:"uploaded_bytes"`
	Layers    []Layer       `json:"layers"`
}

// Push uploads a model, with the credentials that Docker's configuration has. What the registry
// has already is not uploaded again. The tag points to the model once all of it is there. The
// same files give the same digests. Errors name the file and where it was to go.
func Push(ctx context.Context, o Options) (*Pushed, error) {
	repo, err := remote.NewRepository(o.To)
	if err != nil {
		return nil, err
	}
	repo.Reference.Reference = cmp.Or(repo.Reference.Reference, "latest")
	store, err := credentials.NewStoreFromDocker(credentials.StoreOptions{})
	if err = cmp.Or(err, repo.Reference.ValidateReferenceAsTag()); err != nil {
		return nil, err
	}
	repo.PlainHTTP = o.PlainHTTP
	repo.Client = &auth.Client{Client: retry.DefaultClient, Cache: auth.NewCache(), Credential: credentials.Credential(store)}
	r := &Pushed{Reference: repo.Reference.String()}
	if r.Layers, err = o.layers(); err != nil {
		return nil, err
	}
	p := &pass{o: &o, ctx: ctx}
	err = p.each("hashing", r.Layers, func(l *Layer) (err error) {
		l.Digest, err = digest.Canonical.FromReader(p)
		r.Size += l.Size
		return err
	})
	if err == nil {
		err = p.each("uploading to "+o.To, r.Layers, func(l *Layer) (err error) {
			if l.There, err = repo.Blobs().Exists(ctx, l.descriptor()); err != nil || l.There {
				p.count(l.Size)
				return err
			}
			r.Uploaded += l.Size
			return repo.Blobs().Push(ctx, l.descriptor(), p)
		})
	}
	if err != nil {
		return nil, err
	}
	if r.Digest, err = o.manifest(ctx, repo, r.Layers); err != nil {
		return nil, fmt.Errorf("%s: %w", o.To, err)
	}
	return r, nil
}

// layers lists the files: weights first, then settings, documents and code, each by name.
func (o *Options) layers() (all []Layer, err error) {
	dir, files := os.DirFS(o.Dir), o.Files
	if files == nil {
		err = fs.WalkDir(dir, ".", func(name string, e fs.DirEntry, err error) error {
			if err == nil && !e.IsDir() && !strings.Contains("/"+name, "/.") {
				files = append(files, name)
			}
			return err
		})
	}
	for _, name := range files {
		info, e := fs.Stat(dir, name) // of what a link points to
		if e == nil && !info.Mode().IsRegular() {
			e = fmt.Errorf("%s: no regular file", filepath.Join(o.Dir, name))
		}
		if err = cmp.Or(err, e); err != nil {
			return nil, err
		}
		all = append(all, Layer{Path: name, MediaType: TypeOf(name), Size: info.Size()})
	}
	order := []string{WeightType, SettingsType, DocType, CodeType}
	slices.SortFunc(all, func(a, b Layer) int {
		return cmp.Or(slices.Index(order, a.MediaType)-slices.Index(order, b.MediaType), cmp.Compare(a.Path, b.Path))
	})
	return all, err
}

// kinds of files by their names in lower case; others are settings.
var kinds = []struct {
	mediaType string
	names     *regexp.Regexp
}{
	{DocType, regexp.MustCompile(`^(licen[cs]e|notice|readme|copying)|\.(md|pdf|html|png|jpg|svg)$`)},
	{WeightType, regexp.MustCompile(`\.(safetensors|gguf|bin|pt|pth)$`)},
	{CodeType, regexp.MustCompile(`\.(py|sh)$`)},
}

// TypeOf is the media type of a file, by its name.
func TypeOf(name string) string {
	for _, k := range kinds {
		if k.names.MatchString(strings.ToLower(path.Base(name))) {
			return k.mediaType
		}
	}
	return SettingsType
}

// pass reads all files once, with progress and until ctx is cancelled.
type pass struct {
	o           *Options
	ctx         context.Context
	name        string
	done, total int64
	file        *os.File // under way
}

func (p *pass) Read(b []byte) (n int, err error) {
	if err = p.ctx.Err(); err == nil {
		n, err = p.file.Read(b)
		p.count(int64(n))
	}
	return n, err
}

func (p *pass) count(n int64) {
	p.done += n
	p.o.Progress(p.name, p.done, p.total)
}

// each has use read p for every file.
func (p *pass) each(name string, layers []Layer, use func(*Layer) error) (err error) {
	p.name, p.done, p.total = name, 0, 0
	for _, l := range layers {
		p.total += l.Size
	}
	for i := range layers {
		path := filepath.Join(p.o.Dir, layers[i].Path)
		if p.file, err = os.Open(path); err == nil {
			err = use(&layers[i])
			_ = p.file.Close() // it was only read
		}
		if err != nil {
			return fmt.Errorf("%s: %s: %w", path, name, err)
		}
	}
	return nil
}

func (l *Layer) descriptor() ocispec.Descriptor {
	return ocispec.Descriptor{
		MediaType: l.MediaType, Digest: l.Digest, Size: l.Size,
		Annotations: map[string]string{FilePath: l.Path, ocispec.AnnotationTitle: l.Path}, // the second is for oras pull
	}
}

// manifest uploads the configuration and what ties all together, and sets the tag.
func (o *Options) manifest(ctx context.Context, repo *remote.Repository, layers []Layer) (digest.Digest, error) {
	m := ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest, ArtifactType: ArtifactType}
	var digests []digest.Digest
	for _, l := range layers {
		m.Layers, digests = append(m.Layers, l.descriptor()), append(digests, l.Digest)
	}
	text, err := json.Marshal(map[string]any{"descriptor": o.Descriptor, "config": o.Config, "modelfs": map[string]any{"type": "layers", "diffIds": digests}})
	if err == nil {
		m.Config, err = oras.PushBytes(ctx, repo.Blobs(), ConfigType, text)
	}
	if err == nil {
		text, err = json.Marshal(m)
	}
	if err != nil {
		return "", err
	}
	d, err := oras.TagBytes(ctx, repo, m.MediaType, text, repo.Reference.Reference)
	return d.Digest, err
}
