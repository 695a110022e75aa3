// Two calls each of Anthropic and OpenAI through Vercel's AI SDK, whole and as a stream; run by record.py.
//   node drive.mjs [legacy]     legacy: the attributes of the SDK's earlier versions (ai.*)
import { createAnthropic } from '@ai-sdk/anthropic';
import { createOpenAI } from '@ai-sdk/openai';
import * as otel from '@ai-sdk/otel';
import { OTLPTraceExporter } from '@opentelemetry/exporter-trace-otlp-proto';
import { BatchSpanProcessor } from '@opentelemetry/sdk-trace-base';
import { NodeTracerProvider } from '@opentelemetry/sdk-trace-node';
import { generateText, registerTelemetry, streamText } from 'ai';

const provider = new NodeTracerProvider({ spanProcessors: [new BatchSpanProcessor(new OTLPTraceExporter())] });
provider.register();
registerTelemetry(process.argv[2] === 'legacy' ? new otel.LegacyOpenTelemetry() : new otel.OpenTelemetry());

const anthropic = createAnthropic({ baseURL: `${process.env.ANTHROPIC_BASE_URL}/v1` });
const openai = createOpenAI({ baseURL: process.env.OPENAI_BASE_URL });
const prompt = 'How many angels?';
for (const model of [anthropic('claude-sonnet-4-5'), openai.chat('gpt-4o-mini')]) {
  const settings = { model, prompt, maxOutputTokens: 500, telemetry: { isEnabled: true } };
  await generateText(settings);
  for await (const _ of streamText(settings).textStream);
}
await provider.shutdown();
