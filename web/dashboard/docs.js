// The page at `/docs`: Swagger UI from this server's own files. Nothing is loaded from elsewhere.

const dark = matchMedia("(prefers-color-scheme: dark)");
const follow = () => document.documentElement.classList.toggle("dark-mode", dark.matches);
dark.addEventListener("change", follow);
follow();

SwaggerUIBundle({
  url: new URL("openapi.json", document.baseURI).href,
  dom_id: "#docs",
  deepLinking: true,
  validatorUrl: null, // by default the description is sent to a validator on the internet
  supportedSubmitMethods: ["post", "delete"], // a GET is a stream here: Swagger UI would wait for its end
});
