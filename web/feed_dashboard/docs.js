// The page at `/docs`: Swagger UI from this server's own files. Nothing is loaded from elsewhere.
//
// It runs before the page is painted, so that nobody who has chosen dark sees a flash of light.

const system = matchMedia("(prefers-color-scheme: dark)");

/** What was chosen on the dashboard; null for what the system prefers, also where a browser allows no storage. */
function chosenTheme() {
  try {
    const theme = localStorage.getItem("feed-theme");
    return theme === "dark" || theme === "light" ? theme : null;
  } catch {
    return null;
  }
}

function showTheme() {
  const root = document.documentElement;
  const chosen = chosenTheme();
  if (chosen === null) {
    delete root.dataset.theme;
  } else {
    root.dataset.theme = chosen;
  }
  root.classList.toggle("dark-mode", chosen === null ? system.matches : chosen === "dark"); // Swagger UI's own
}

system.addEventListener("change", showTheme);
addEventListener("storage", showTheme); // it was chosen in another tab
showTheme();

// Swagger UI writes markup where it shows text that was markdown, after it has cleaned it. Here is checked again that
// there is nothing in it but words: an element with an attribute, or of another kind, is refused by the browser.
const WORDS = /^(?:[^<]|<\/?(?:p|code|pre|em|strong|i|ul|ol|li|br)>)*$/;
globalThis.trustedTypes?.createPolicy("default", { createHTML: (markup) => (WORDS.test(markup) ? markup : null) });

/** What Swagger UI leaves without a name, which a screen reader has to say. */
const NAMES = { textarea: "Request body", ".json-schema-2020-12-accordion": "Unfold or fold" };

/** @param {Element} page */
function giveNames(page) {
  new MutationObserver(() => {
    for (const [selector, name] of Object.entries(NAMES)) {
      for (const element of page.querySelectorAll(`${selector}:not([aria-label])`)) {
        if (!element.textContent.trim() || selector === "textarea") {
          element.setAttribute("aria-label", name);
        }
      }
    }
  }).observe(page, { childList: true, subtree: true });
}

addEventListener("DOMContentLoaded", () => {
  const docs = document.getElementById("docs");
  if (docs) giveNames(docs);
  SwaggerUIBundle({
    url: new URL("openapi.json", document.baseURI).href,
    dom_id: "#docs",
    deepLinking: true,
    syntaxHighlight: { activated: false }, // its colours are for a black ground only
    plugins: [() => ({ components: { ServersContainer: () => null } })], // there is one server, this one
    validatorUrl: null, // by default the description is sent to a validator on the internet
    supportedSubmitMethods: ["post", "delete"], // a GET is a stream here: Swagger UI would wait for its end
  });
});
