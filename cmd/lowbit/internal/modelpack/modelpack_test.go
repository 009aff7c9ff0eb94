package modelpack

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/stretchr/testify/require"
	"oras.land/oras-go/v2"
	"oras.land/oras-go/v2/content/memory"
	"oras.land/oras-go/v2/registry/remote"
	"oras.land/oras-go/v2/registry/remote/auth"

	"github.com/golowbit/lowbit/cmd/lowbit/internal/modelpack/registrytest"
)

// folder is a model's, with a file of each kind, one in a folder below, and hidden ones.
func folder(t *testing.T) (string, map[string]string) {
	dir := t.TempDir()
	files := map[string]string{
		"model-00001-of-00002.safetensors": strings.Repeat("w", 1<<20), "model-00002-of-00002.safetensors": "v",
		"config.json": "{}", "merges.txt": "a b", "README.md": "# me", "LICENSE": "mit", "LICENSE.txt": "", "sub/modeling.py": "x",
	}
	for name, text := range files {
		require.NoError(t, os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o777))
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o666))
	}
	require.NoError(t, os.WriteFile(filepath.Join(dir, ".gitattributes"), nil, 0o666))
	require.NoError(t, os.MkdirAll(filepath.Join(dir, ".cache"), 0o777))
	require.NoError(t, os.WriteFile(filepath.Join(dir, ".cache", "x.json"), nil, 0o666))
	return dir, files
}

func options(r *registrytest.Registry, dir string) Options {
	return Options{
		Dir: dir, To: r.Host + "/me/model:4bit", PlainHTTP: true, Progress: func(string, int64, int64) {},
		Descriptor: map[string]string{"family": "llama"}, Config: map[string]string{"format": "safetensors", "paramSize": "2.6M"},
	}
}

// pull takes an artefact out of a registry, by other code.
func pull(t *testing.T, r *registrytest.Registry, tag string) (ocispec.Manifest, map[string]string, []byte) {
	repo, err := remote.NewRepository(r.Host + "/me/model")
	require.NoError(t, err)
	repo.PlainHTTP = true
	if user, password, ok := strings.Cut(r.Credential, ":"); ok {
		repo.Client = &auth.Client{Credential: auth.StaticCredential(r.Host, auth.Credential{Username: user, Password: password})}
	}
	store := memory.New()
	d, err := oras.Copy(t.Context(), repo, tag, store, tag, oras.DefaultCopyOptions)
	require.NoError(t, err)
	read := func(d ocispec.Descriptor) []byte {
		f, err := store.Fetch(t.Context(), d)
		require.NoError(t, err)
		defer f.Close()
		data, err := io.ReadAll(f)
		require.NoError(t, err)
		return data
	}
	var m ocispec.Manifest
	require.NoError(t, json.Unmarshal(read(d), &m))
	files := map[string]string{}
	for _, l := range m.Layers {
		files[l.Annotations[FilePath]] = string(read(l))
	}
	return m, files, read(m.Config)
}

func TestPush(t *testing.T) {
	r := registrytest.New(t)
	dir, files := folder(t)
	o := options(r, dir)
	passes := map[string]int64{}
	o.Progress = func(pass string, done, total int64) {
		require.GreaterOrEqual(t, done, passes[pass])
		require.LessOrEqual(t, done, total)
		passes[pass] = done
	}
	p, err := Push(t.Context(), o)
	require.NoError(t, err)
	require.Equal(t, o.To, p.Reference)
	require.Equal(t, p.Size, p.Uploaded)
	require.Equal(t, map[string]int64{"hashing": p.Size, "uploading to " + o.To: p.Size}, passes)

	m, back, config := pull(t, r, "4bit")
	require.Equal(t, files, back)
	require.Equal(t, "application/vnd.oci.image.manifest.v1+json", m.MediaType)
	require.Equal(t, "application/vnd.cncf.model.manifest.v1+json", m.ArtifactType)
	require.Equal(t, "application/vnd.cncf.model.config.v1+json", m.Config.MediaType)
	var kinds []string
	var digests []string
	for _, l := range m.Layers {
		kind, _ := strings.CutPrefix(l.MediaType, "application/vnd.cncf.model.")
		kinds = append(kinds, kind+" "+l.Annotations["org.cncf.model.filepath"])
		digests = append(digests, fmt.Sprintf("%q", l.Digest))
	}
	require.Equal(t, []string{
		"weight.v1.raw model-00001-of-00002.safetensors", "weight.v1.raw model-00002-of-00002.safetensors",
		"weight.config.v1.raw config.json", "weight.config.v1.raw merges.txt",
		"doc.v1.raw LICENSE", "doc.v1.raw LICENSE.txt", "doc.v1.raw README.md", "code.v1.raw sub/modeling.py",
	}, kinds)
	require.JSONEq(t, `{"descriptor": {"family": "llama"}, "config": {"format": "safetensors", "paramSize": "2.6M"},
		"modelfs": {"type": "layers", "diffIds": [`+strings.Join(digests, ",")+`]}}`, string(config))

	// Again: nothing but the manifest, and the same one.
	uploads := r.Uploads
	o.Progress = func(string, int64, int64) {}
	again, err := Push(t.Context(), o)
	require.NoError(t, err)
	require.Equal(t, p.Digest, again.Digest)
	require.Zero(t, again.Uploaded)
	require.Equal(t, uploads+1, r.Uploads, "the configuration only")

	// One file, under the tag that stands for none.
	o.Files, o.To = []string{"model-00002-of-00002.safetensors"}, r.Host+"/me/model"
	one, err := Push(t.Context(), o)
	require.NoError(t, err)
	require.Equal(t, o.To+":latest", one.Reference)
	_, back, _ = pull(t, r, "latest")
	require.Equal(t, map[string]string{"model-00002-of-00002.safetensors": "v"}, back)
}

// TestPushLinks takes what links of a hub's cache point to.
func TestPushLinks(t *testing.T) {
	r := registrytest.New(t)
	dir, files := folder(t)
	links := filepath.Join(t.TempDir(), "links")
	require.NoError(t, os.Mkdir(links, 0o777))
	for _, name := range []string{"config.json", "model-00002-of-00002.safetensors"} {
		if err := os.Symlink(filepath.Join(dir, name), filepath.Join(links, name)); err != nil {
			t.Skip(err)
		}
	}
	_, err := Push(t.Context(), options(r, links))
	require.NoError(t, err)
	_, back, _ := pull(t, r, "4bit")
	require.Equal(t, map[string]string{"config.json": files["config.json"], "model-00002-of-00002.safetensors": "v"}, back)

	require.NoError(t, os.Symlink(dir, filepath.Join(links, "folder")))
	_, err = Push(t.Context(), options(r, links))
	require.ErrorContains(t, err, filepath.Join(links, "folder")+": no regular file")
}

func TestPushCredentials(t *testing.T) {
	r := registrytest.New(t)
	r.Credential = "me:secret"
	dir, files := folder(t)
	_, err := Push(t.Context(), options(r, dir))
	require.ErrorContains(t, err, "model-00001-of-00002.safetensors: uploading to "+r.Host)
	require.ErrorContains(t, err, "basic credential not found")

	config := fmt.Sprintf(`{"auths": {%q: {"auth": "bWU6c2VjcmV0"}}}`, r.Host) // me:secret
	require.NoError(t, os.WriteFile(filepath.Join(os.Getenv("DOCKER_CONFIG"), "config.json"), []byte(config), 0o666))
	_, err = Push(t.Context(), options(r, dir))
	require.NoError(t, err)
	_, back, _ := pull(t, r, "4bit")
	require.Equal(t, files, back)
}

// TestPushFails: there is no tag before all is there, and what is there is not uploaded again.
func TestPushFails(t *testing.T) {
	r := registrytest.New(t)
	dir, _ := folder(t)
	r.Broken = "2" // config.json
	_, err := Push(t.Context(), options(r, dir))
	require.ErrorContains(t, err, filepath.Join(dir, "config.json")+": uploading to "+r.Host+"/me/model:4bit")
	require.ErrorContains(t, err, "not what was said")
	require.Empty(t, r.Manifests)
	r.Broken = ""

	ctx, cancel := context.WithCancel(t.Context())
	r.Cancel = cancel
	_, err = Push(ctx, options(r, dir))
	require.ErrorIs(t, err, context.Canceled)
	require.Empty(t, r.Manifests)
	r.Cancel = nil

	p, err := Push(t.Context(), options(r, dir))
	require.NoError(t, err)
	require.True(t, p.Layers[0].There)
	require.Less(t, p.Uploaded, int64(1000))
	require.Len(t, r.Manifests, 2)

	for to, want := range map[string]string{"model": "invalid reference", r.Host + "/Me/x": "invalid repository", r.Host + "/me/x:a b": "invalid"} {
		o := options(r, dir)
		o.To = to
		_, err := Push(t.Context(), o)
		require.ErrorContains(t, err, want)
	}
	_, err = Push(t.Context(), options(r, filepath.Join(dir, "none")))
	require.ErrorIs(t, err, os.ErrNotExist)
}
