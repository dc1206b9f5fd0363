"""Floor 4: engines behind the OpenAI API, so that nobody can wedge them.

app.py        build           routes and documentation;  routes.py  the table of them
door.py       Door            who may come in, with how much, and who has left;  connection.py  slow and many clients
schema.py     ChatRequest     what may be asked, as closed types;  strict.py  bytes become one;  bounds.py  the limits
shape.py      problem         schemas of tools that are none
chat.py completions.py        the words of the API;  words.py  what they share;  events.py  streams
responses.py messages.py      two more APIs in the words of chat, typed by schema_*.py;  parts.py  what they share
pooled.py                     models that read: embeddings, reranking, scores, classes
generate.py   answers         an answer while it is made
gate.py       Gate            a bounded queue, fair between keys;  pace.py  how long it takes
ledger.py     Ledger          what each key has used;  shared_ledger.py  the same, in a Redis that replicas share
page.py       Page            the chat page, before all of it;  relay.py  the same before a server elsewhere
auth.py audit.py moderation.py metrics.py
house.py      House           all that a server is made of;  call.py  what is known of a request
place.py      bind            the address;  server.py  Server  signals, the end
"""
