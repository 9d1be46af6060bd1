"""The chat: `app` (the application and its security), `conversation` (what it does), `messages` (what it says)."""
