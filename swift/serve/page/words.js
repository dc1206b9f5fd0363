// What the page says, in two languages. A test holds that both say the same things.

export const WORDS = {
  en: {
    skip: 'To the message field',
    settings: 'Settings',
    compare: 'Side by side',
    clear: 'Clear',
    language: '中文',
    model: 'Model',
    system: 'System prompt',
    temperature: 'Temperature',
    top_p: 'top_p',
    max_tokens: 'Most tokens',
    seed: 'Seed',
    tools: 'Tools (JSON list)',
    tools_wrong: 'The tools must be a JSON list of {"type": "function", "function": {"name": ...}}.',
    as_served: "Empty fields leave it to the server. Settings are forgotten with this tab.",
    message: 'Message',
    message_hint: 'Enter sends, Shift+Enter begins a line, Esc stops',
    result_hint: 'The result of {name}',
    send: 'Send',
    stop: 'Stop',
    conversation: 'Conversation',
    user: 'You',
    assistant: 'Answer of {model}',
    tool: 'Result of {name}',
    reasoning: 'Reasoning',
    call: 'Call of {name}',
    copy: 'Copy',
    copied: 'Copied',
    regenerate: 'Again',
    answering: 'Answering …',
    answered: 'The answer is there.',
    empty: 'Say something to the model.',
    speed: '{tokens} tokens, {rate} tokens/s, the first after {first} s',
    ended_stop: '',
    ended_tool_calls: '',
    ended_length: 'cut off: the most tokens',
    ended_content_filter: 'cut off: not allowed here',
    ended_stopped: 'stopped',
    key_title: 'This server asks for a key',
    key_label: 'API key',
    key_note: 'It stays in this tab and is forgotten with it.',
    key_wrong: 'The server refused this key.',
    key_save: 'Use it',
    unreachable: 'The server does not answer.',
    broken_off: 'The connection broke off.',
  },
  zh: {
    skip: '跳到输入框',
    settings: '设置',
    compare: '并排对比',
    clear: '清空',
    language: 'English',
    model: '模型',
    system: '系统提示词',
    temperature: '温度',
    top_p: 'top_p',
    max_tokens: '最多词元数',
    seed: '随机种子',
    tools: '工具（JSON 列表）',
    tools_wrong: '工具必须是 JSON 列表，每项形如 {"type": "function", "function": {"name": ...}}。',
    as_served: '留空的项由服务器决定。设置只保留在本标签页，关闭即忘。',
    message: '消息',
    message_hint: '回车发送，Shift+回车换行，Esc 停止',
    result_hint: '{name} 的结果',
    send: '发送',
    stop: '停止',
    conversation: '对话',
    user: '你',
    assistant: '{model} 的回答',
    tool: '{name} 的结果',
    reasoning: '思考过程',
    call: '调用 {name}',
    copy: '复制',
    copied: '已复制',
    regenerate: '重新生成',
    answering: '正在回答……',
    answered: '回答完毕。',
    empty: '对模型说点什么吧。',
    speed: '{tokens} 个词元，{rate} 词元/秒，{first} 秒后开始',
    ended_stop: '',
    ended_tool_calls: '',
    ended_length: '已达最多词元数，回答被截断',
    ended_content_filter: '内容不被允许，回答被截断',
    ended_stopped: '已停止',
    key_title: '此服务器需要密钥',
    key_label: 'API 密钥',
    key_note: '密钥只保留在本标签页，关闭即忘。',
    key_wrong: '服务器拒绝了这个密钥。',
    key_save: '使用',
    unreachable: '服务器没有响应。',
    broken_off: '连接中断了。',
  },
};

let spoken = 'en';

/** A phrase in the language of the page, with values in its {places}. */
export function say(name, values = {}) {
  return WORDS[spoken][name].replace(/\{(\w+)\}/g, (_, place) => values[place]);
}

/** Speak a language: every element says again what its data-say, data-label or data-hint names. */
export function speak(language, root = document.documentElement) {
  spoken = language in WORDS ? language : 'en';
  if (root === document.documentElement) root.lang = spoken === 'zh' ? 'zh-CN' : 'en';
  for (const each of root.querySelectorAll('[data-say]')) each.textContent = say(each.dataset.say, each.dataset);
  for (const each of root.querySelectorAll('[data-label]')) {
    each.setAttribute('aria-label', say(each.dataset.label, each.dataset));
  }
  for (const each of root.querySelectorAll('[data-hint]')) each.placeholder = say(each.dataset.hint, each.dataset);
}

/** The language that is spoken. */
export const language = () => spoken;
