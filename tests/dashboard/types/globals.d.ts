// What is there, and TypeScript does not know: Swagger UI, which is no module, and what not all browsers have. uPlot's
// own types say themselves that it is there.

declare function SwaggerUIBundle(options: Record<string, unknown>): unknown;

declare var trustedTypes: { createPolicy(name: string, rules: TrustedTypesRules): TrustedTypesPolicy } | undefined;

interface TrustedTypesRules {
  createHTML?(markup: string): string | null;
  createScriptURL?(url: string): string | null;
}

interface TrustedTypesPolicy {
  /** An object, which goes where a text goes that is the address of a script. */
  createScriptURL(url: string): string;
}
