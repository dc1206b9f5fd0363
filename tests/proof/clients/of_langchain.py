"""LangChain against a server: ``of_langchain.py URL MODEL``. Prints what it heard as JSON."""

import asyncio
import json
import sys

from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI

URL, MODEL = sys.argv[1:]
SCHEMA = {
    'title': 'Capital',
    'description': 'A capital.',
    'type': 'object',
    'properties': {'city': {'type': 'string', 'maxLength': 20}, 'people': {'type': 'integer'}},
    'required': ['city', 'people'],
    'additionalProperties': False,
}
QUESTION = 'What is the capital of France?'


@tool
def get_weather(city: str, unit: str = 'C') -> str:
    """The weather of a city."""
    return f'20 {unit} in {city}'


def chat(**how):
    """The model, greedy."""
    given = {'base_url': URL, 'api_key': 'EMPTY', 'model': MODEL, 'temperature': 0, 'max_tokens': 64, **how}
    return ChatOpenAI(**given)


async def several():
    """Four questions at once."""
    return [each.content for each in await chat().abatch([QUESTION] * 4)]


whole = chat().invoke(QUESTION)
chunks = list(chat(stream_usage=True).stream(QUESTION))
forced = chat().bind_tools([get_weather], tool_choice='get_weather').invoke('How is the weather in Paris?')
call = forced.tool_calls[0]
after = chat().invoke(
    [
        HumanMessage('How is the weather in Paris?'),
        AIMessage('', tool_calls=[call]),
        ToolMessage(get_weather.invoke(call['args']), tool_call_id=call['id']),
    ]
)
streamed = None
for chunk in chat().bind_tools([get_weather], tool_choice='any').stream('How is the weather in Paris?'):
    streamed = chunk if streamed is None else streamed + chunk
strict = chat().bind_tools([get_weather], tool_choice='auto', strict=True).invoke('Say hello.')
likely = chat(logprobs=True, top_logprobs=2).invoke(QUESTION).response_metadata['logprobs']['content']
forms = {
    method: chat().with_structured_output(SCHEMA, method=method).invoke(QUESTION)
    for method in ('json_schema', 'function_calling')
}
print(
    json.dumps(
        {
            'whole': whole.content,
            'usage': whole.usage_metadata['total_tokens'],
            'streamed': ''.join(each.content for each in chunks),
            'counted': sum(each.usage_metadata['total_tokens'] for each in chunks if each.usage_metadata),
            'several': asyncio.run(several()),
            'call': [call['name'], call['args']],
            'after': after.content,
            'streamed call': [streamed.tool_calls[0]['name'], streamed.tool_calls[0]['args']],
            'strict': strict.content,
            'logprobs': len(likely[0]['top_logprobs']),
            'forms': forms,
        }
    )
)
