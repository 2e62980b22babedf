import { AsyncLocalStorage } from "node:async_hooks";
import { type Span as OtelSpan, ROOT_CONTEXT, SpanKind, SpanStatusCode, TraceFlags, trace } from "@opentelemetry/api";
import { OTLPTraceExporter } from "@opentelemetry/exporter-trace-otlp-http";
import { resourceFromAttributes } from "@opentelemetry/resources";
import { BatchSpanProcessor, type SpanExporter, type SpanProcessor, TracerProvider } from "@opentelemetry/sdk-trace";
import { ATTRIBUTES, type ChildName, parentOf, type Span, type SpanFacts, type Tracing } from "./tracing.ts";

export interface OtlpOptions {
  readonly service: string;
  readonly version: string;
  /** So many spans were dropped: the queue was full, or the collector did not take them. */
  readonly dropped: (spans: number) => void;
}

/** The spans that wait for the collector; further ones are dropped. A call never waits. */
const MOST_WAITING = 2_048;
const CLOSE_MS = 2_000;

/** Traces by OTLP over HTTP, as JSON. The exporter reads its endpoint, headers and time-outs from OTEL_EXPORTER_OTLP_*. */
export function otlpTracing({ service, version, dropped }: OtlpOptions): Tracing {
  const provider = new TracerProvider({
    resource: resourceFromAttributes({ "service.name": service, "service.version": version }),
    spanProcessors: [bounded(new OTLPTraceExporter(), dropped)],
  });
  const tracer = provider.getTracer("sallyport", version);
  const current = new AsyncLocalStorage<OtelSpan>();

  const server = (rpc: string, parent: ReturnType<typeof parentOf>): Span => {
    const context =
      parent === undefined
        ? ROOT_CONTEXT
        : trace.setSpanContext(ROOT_CONTEXT, {
            traceId: parent.traceId,
            spanId: parent.spanId,
            traceFlags: TraceFlags.SAMPLED,
            isRemote: true,
          });
    const span = new Made(tracer.startSpan(rpc, { kind: SpanKind.SERVER }, context));
    span.set({ rpc });
    return span;
  };
  const begin = (name: ChildName, agoMs: number): Made | undefined => {
    const parent = current.getStore();
    if (parent === undefined) return undefined;
    const startTime = agoMs > 0 ? Date.now() - agoMs : undefined;
    return new Made(tracer.startSpan(name, { startTime }, trace.setSpan(ROOT_CONTEXT, parent)));
  };
  return {
    begin,
    call(rpc, traceparent) {
      const parent = traceparent === null ? undefined : parentOf(traceparent);
      return parent?.sampled === false ? undefined : server(rpc, parent);
    },
    sampled(rpc, traceparent) {
      const parent = parentOf(traceparent);
      return parent?.sampled ? server(rpc, parent) : undefined;
    },
    within: (span, work) => current.run((span as Made).span, work),
    async child(name, work) {
      const span = begin(name, 0);
      if (span === undefined) return work();
      try {
        const result = await current.run(span.span, work);
        span.end();
        return result;
      } catch (error) {
        span.end(true);
        throw error;
      }
    },
    note(facts) {
      const span = current.getStore();
      if (span !== undefined) new Made(span).set(facts);
    },
    async close() {
      const late = new Promise<void>((resolve) => setTimeout(resolve, CLOSE_MS).unref());
      await Promise.race([provider.shutdown().catch(() => {}), late]);
    },
  };
}

class Made implements Span {
  readonly span: OtelSpan;

  constructor(span: OtelSpan) {
    this.span = span;
  }

  set(facts: SpanFacts): void {
    for (const [name, value] of Object.entries(facts))
      if (value !== undefined && name in ATTRIBUTES)
        this.span.setAttribute(ATTRIBUTES[name as keyof typeof ATTRIBUTES], value);
  }

  end(failed = false): void {
    // Without a message: an error's text can name what the caller sent.
    if (failed) this.span.setStatus({ code: SpanStatusCode.ERROR });
    this.span.end();
  }
}

/** The library drops spans without telling how many, so they are counted before it. */
function bounded(exporter: SpanExporter, dropped: (spans: number) => void): SpanProcessor {
  let waiting = 0;
  const counting: SpanExporter = {
    export(spans, done) {
      exporter.export(spans, (result) => {
        waiting -= spans.length;
        if (result.code !== 0) dropped(spans.length);
        done(result);
      });
    },
    shutdown: () => exporter.shutdown(),
  };
  const inner = new BatchSpanProcessor({ exporter: counting, maxQueueSize: MOST_WAITING, scheduledDelayMillis: 1_000 });
  return {
    onStart: (span, context) => inner.onStart(span, context),
    onEnd(span) {
      if (waiting >= MOST_WAITING) return dropped(1);
      waiting++;
      inner.onEnd(span);
    },
    forceFlush: () => inner.forceFlush(),
    shutdown: () => inner.shutdown(),
  };
}
