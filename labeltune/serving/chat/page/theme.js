// Light or dark as the reader's system is, until the reader chooses; Chainlit's settings know only the two.
localStorage.getItem("vite-ui-theme") ?? localStorage.setItem("vite-ui-theme", "system");
