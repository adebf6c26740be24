"""The dashboard's pages, and `feed.js` for pages of others: plain files, which whoever serves them finds by
`importlib.resources.files("feed_dashboard")`."""
