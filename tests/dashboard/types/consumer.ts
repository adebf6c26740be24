// A page of somebody else, in TypeScript, that uses feed.js: what its types allow, and what they do not.

import { connect, Feed, FeedEvent } from "../../../web/feed_dashboard/feed.js";

const feed: Feed = connect({ topics: ["orders/*"] as const, base: new URL("https://feed.example.org/"), last: 50 });

feed.addEventListener("event", ({ detail }) => {
  const event: FeedEvent = detail;
  const words: string[] = [event.id, event.topic, event.type, event.time, event.text];
  const flags: boolean[] = [event.live, event.json];
  // @ts-expect-error The data is anybody's: it has to be looked at before it is used.
  event.data.total;
  // @ts-expect-error An event has no such property.
  event.offset;
  console.log(words, flags);
});
feed.addEventListener("events", ({ detail }) => console.log(detail.map((event) => event.topic)), { once: true });
feed.addEventListener("gap", ({ detail }) => console.log(detail.requested, detail.resumedFrom, detail.reason));
feed.addEventListener("closing", ({ detail }) => console.log(detail.reason, detail.retry.toFixed()));
feed.addEventListener("position", ({ detail }) => console.log(detail.id));

function shown({ detail: state }: CustomEvent<Feed["state"]>): string {
  switch (state.name) {
    case "live":
      return state.resumed ? `${state.resumed.replayed} events after ${state.resumed.after}` : "";
    case "waiting":
      return `${state.reason} until ${new Date(state.retryAt)}`;
    case "refused":
      return `${state.status} ${state.reason}: ${state.detail}`;
    case "replaying":
      return state.after;
    case "connecting":
    case "offline":
    case "closed":
      // @ts-expect-error These have no facts.
      return state.reason;
  }
}
feed.addEventListener("state", shown);
feed.removeEventListener("state", shown);

const board = connect({ topics: ["scores/*"], latest: true, every: 500 });
const score: FeedEvent | undefined = board.state.get("scores/ada");
board.addEventListener("live", ({ detail: state }) => console.log(state.size, board.connection.name, score?.id));
board.whole().then((state) => console.log(state.size));
// @ts-expect-error The state is the feed's to change.
board.state.delete("scores/ada");

connect({ topics: ["orders/*"], types: ["changed"], load: async () => "position" });
feed.addEventListener("error", ({ detail }) => console.log(detail));
// @ts-expect-error It has to return a position.
connect({ load: async () => {} });
// @ts-expect-error The state is in the feed, or in a database.
connect({ latest: true, load: async () => "position" });
// @ts-expect-error Only the state can be had less often.
connect({ every: 500 });

// @ts-expect-error There is no such event.
feed.addEventListener("message", () => {});
// @ts-expect-error There is no such transport.
connect({ transport: "polling" });
// @ts-expect-error There is no such option.
connect({ topic: "orders/*" });
// @ts-expect-error Topics are an array.
connect({ topics: "orders/*" });
// @ts-expect-error The state is the feed's to change.
feed.state = { name: "live", resumed: null };
// @ts-expect-error Nor are its facts anybody else's.
feed.state.name = "live";

const target: EventTarget = feed;
const id: string = feed.lastEventId;
feed.retry();
feed.renew();
feed.close();
console.log(target, id);
