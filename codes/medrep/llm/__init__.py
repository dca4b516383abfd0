"""Language models: chat asks a service, local_model one on this machine; answers of both are kept alike. Read chat.py first."""
