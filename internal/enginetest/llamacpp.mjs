// Runs llama.cpp through node-llama-cpp for the Go test beside this file.
//
//	node llamacpp.mjs NODE_MODULES_PARENT REQUEST.json REPLY.json
//
// The request is a list of jobs {model, vocabOnly, texts, special, windows,
// logits, prompt, generate}. texts are tokenized (special tokens recognised if
// special is true); each of windows, lists of tokens, is run by itself and the
// logits after every token go to the file named logits as little-endian
// float32, row by row; prompt is continued greedily by generate tokens. The
// reply is {version, system, jobs}, for each job {ids, vocab, bos, eos, addBOS,
// rows, generated}.
import fs from "node:fs";
import path from "node:path";
import {pathToFileURL} from "node:url";

const [parent, requestFile, replyFile] = process.argv.slice(2);
const packageDir = path.join(path.resolve(parent), "node_modules", "node-llama-cpp");
const {getLlama} = await import(pathToFileURL(path.join(packageDir, "dist", "index.js")).href);
const request = JSON.parse(fs.readFileSync(requestFile, "utf8"));

// The prebuilt library as it is: nothing is compiled or fetched.
const llama = await getLlama({
    gpu: false, build: "never", skipDownload: true, maxThreads: 1,
    logger: (level, message) => process.stderr.write(`${level}: ${message}\n`),
    logLevel: "warn"
});
async function newContext(model, size) {
    // Keys and values in float32 and plain attention: what is compared is the
    // weights and the arithmetic on them, not a rounded cache.
    return await model.createContext({
        contextSize: Math.min(size + 8, model.trainContextSize), batchSize: size + 8, sequences: 1, threads: 1,
        flashAttention: false, experimentalKvCacheKeyType: "F32", experimentalKvCacheValueType: "F32"
    });
}

function rowOf(logits) {
    const row = new Float32Array(logits.size);
    for (const [token, value] of logits)
        row[token] = value;
    return Buffer.from(row.buffer);
}

async function evaluate(model, windows, file) {
    const context = await newContext(model, Math.max(...windows.map((w) => w.length)));
    const sequence = context.getSequence();
    const rows = [];
    for (const window of windows) {
        await sequence.clearHistory();
        const output = await sequence.controlledEvaluate(
            window.map((token) => [token, {generateNext: {logits: true, options: {temperature: 0}}}])
        );
        for (const item of output)
            rows.push(rowOf(item.next.logits));
    }
    fs.writeFileSync(file, Buffer.concat(rows));
    await context.dispose();
    return {rows: rows.length, vocab: rows[0].length / 4};
}

async function generate(model, prompt, n) {
    const context = await newContext(model, prompt.length + n);
    const tokens = [];
    for await (const token of context.getSequence().evaluate(prompt, {temperature: 0, yieldEogToken: true})) {
        tokens.push(token);
        if (tokens.length >= n || model.isEogToken(token))
            break;
    }
    await context.dispose();
    return tokens;
}

const jobs = [];
for (const job of request) {
    const model = await llama.loadModel({modelPath: job.model, vocabOnly: job.vocabOnly === true, useMmap: false});
    const reply = {
        ids: (job.texts ?? []).map((text) => model.tokenize(text, job.special === true)),
        bos: model.tokens.bos,
        eos: model.tokens.eos,
        addBOS: model.tokens.shouldPrependBosToken
    };
    if (job.windows?.length > 0)
        Object.assign(reply, await evaluate(model, job.windows, job.logits));
    if (job.generate > 0)
        reply.generated = await generate(model, job.prompt, job.generate);
    jobs.push(reply);
    await model.dispose();
}
const version = JSON.parse(fs.readFileSync(path.join(packageDir, "package.json"), "utf8")).version;
fs.writeFileSync(replyFile, JSON.stringify({version, system: llama.systemInfo, jobs}));
await llama.dispose();
