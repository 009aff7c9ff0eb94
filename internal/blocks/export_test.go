package blocks

// Prior is prior, for tests.
const Prior = prior
