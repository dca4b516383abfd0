"""Language models: chat_client asks a service, local_model one on this machine, openai_batch writes and reads OpenAI's Batch files.

Requests (chat_requests) and answers (answer_file, replies) of all three are alike. definition_prompts says what is asked to define a
concept, rating_prompts what to rate features, rater whom that is asked. Read chat_client.py first.
"""
